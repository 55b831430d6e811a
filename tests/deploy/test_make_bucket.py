"""The bucket of a new deployment."""

import uuid
from typing import Any

import boto3
import pytest

from include.make_bucket import main


@pytest.fixture
def client(s3_bucket: str) -> Any:
    return boto3.Session().client("s3")


def versioning(client: Any, name: str) -> str | None:
    status: str | None = client.get_bucket_versioning(Bucket=name).get("Status")
    return status


def test_a_new_bucket_keeps_versions(client: Any, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"new-{uuid.uuid4().hex[:8]}"
    for _ in range(2):
        assert main([f"s3://{name}"]) == 0
        assert versioning(client, name) == "Enabled"
    assert capsys.readouterr().out.count("keeps versions.") == 2


def test_one_that_is_there_is_left_as_it_is(client: Any, s3_bucket: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([f"s3://{s3_bucket}"]) == 0
    assert versioning(client, s3_bucket) is None
    assert "keeps no versions" in capsys.readouterr().out


@pytest.mark.parametrize("uri", ["", "gesso", "s3://", "s3://gesso/prefix"])
def test_what_is_no_bucket_is_refused(uri: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([uri]) == 2
    assert "Expected s3://NAME" in capsys.readouterr().err


def test_a_server_that_is_not_there(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    settings = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_MAX_ATTEMPTS": "1",
    }
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    assert main(["s3://gesso"]) == 75
    assert "can't be had" in capsys.readouterr().err
