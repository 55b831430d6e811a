from pathlib import Path

import pytest

from tasks.core.errors import ParamsError
from tasks.core.settings import settings


def test_a_setting_comes_from_the_environment_and_an_empty_one_does_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GESSO_STORE", "s3://bucket/prefix")
    monkeypatch.setenv("GESSO_SCRATCH", "")
    settings.cache_clear()
    assert settings().store_uri == "s3://bucket/prefix"
    assert settings().scratch_folder == Path(settings().home.absolute() / "scratch")


def test_a_setting_that_can_not_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GESSO_WORKERS", "many")
    settings.cache_clear()
    with pytest.raises(ParamsError, match=r"GESSO_WORKERS: .*integer"):
        settings()
