"""`make run` says what of its params can't be used, before Airflow starts."""

import json
from pathlib import Path
from typing import Any

import pytest

from include import run
from tasks.core.settings import settings


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ('{"dataset": 5}', "dataset = 5: Input should be a valid string"),
        ('{"dataset": ["a"]}', "dataset = ['a']: Input should be a valid string"),
        ("{", "PARAMS is not JSON: "),
        ("1" * 5000, "PARAMS is not JSON: "),
        ("[]", "PARAMS is not a JSON object: '[]'"),
        ('{"epochs": 0}', "epochs = 0: "),
    ],
)
def test_params_that_can_not_be_used(params: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--params", params]) == 2
    assert said in capsys.readouterr().err


def test_params_of_the_environment_are_those_of_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(run, "_run", lambda conf: asked.append(conf) or 0)
    monkeypatch.setenv("GESSO_PARAMS", json.dumps({"preset": "original", "dataset": str(tmp_path), "epochs": 7}))
    settings.cache_clear()
    assert run.main(["--params", '{"folds": 2}']) == 0
    assert run.main(["--preset", "quick", "--dataset", "s3://a/b"]) == 0
    own = {"preset": "original", "dataset": str(tmp_path), "epochs": 7}
    assert asked == [own | {"folds": 2}, own | {"preset": "quick", "dataset": "s3://a/b"}]


def test_a_folder_that_can_not_be_written(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    home.touch()
    monkeypatch.chdir(home.parent)
    assert run.main(["--dataset", "pictures"]) != 0
    assert f"gesso: make run: [Errno 20] Not a directory: '{home}/airflow-run'" in capsys.readouterr().err
