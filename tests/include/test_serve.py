"""`make up` and `make airflow` from another shell: what the Airflow that serves goes by stays."""

import json
import stat
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from include import serve
from tasks.core.settings import settings

#: A process's number that none has.
NOBODY = 2**30


@pytest.fixture
def started(home: Path, monkeypatch: pytest.MonkeyPatch) -> list[dict[str, str]]:
    """Airflow's environment at each command of it; none is run."""
    found: list[dict[str, str]] = []

    def run(*_: Any, env: dict[str, str], **__: Any) -> Any:
        found.append(env)
        return SimpleNamespace(returncode=0)

    def start(command: list[str], env: dict[str, str] | None = None, **_: Any) -> Any:
        if env is not None:
            raise SystemExit(f"{command} is not for this test")
        return SimpleNamespace(pid=NOBODY, poll=lambda: None)

    monkeypatch.setenv("GESSO_DATASET", "s3://bucket/data")
    monkeypatch.setattr(serve, "_postgres", lambda _: SimpleNamespace(get_uri=lambda driver: driver, stop=lambda: None))
    monkeypatch.setattr(serve, "_answers", lambda _: False)
    monkeypatch.setattr(serve, "_healthy", lambda _: True)
    monkeypatch.setattr(serve, "_supervisor", lambda home: NOBODY if serve._pid_file(home).exists() else None)
    monkeypatch.setattr(serve.signal, "signal", lambda *_: None)
    monkeypatch.setattr(serve.subprocess, "run", run)
    monkeypatch.setattr(serve.subprocess, "Popen", start)
    return found


def shell(monkeypatch: pytest.MonkeyPatch, users: str = "admin:admin", port: str = "") -> None:
    """Another shell, where these are set."""
    monkeypatch.setattr(serve, "USERS", users)
    monkeypatch.setenv("GESSO_PORT", port)
    settings.cache_clear()


def supervise() -> None:
    with pytest.raises(SystemExit):
        serve.supervise()


def test_passwords_are_made_once_and_kept(
    home: Path, started: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    file = home / "airflow" / "passwords.json"
    shell(monkeypatch, "admin:admin,kim:user")
    supervise()
    first = json.loads(file.read_text())
    assert list(first) == ["admin", "kim"]
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    shell(monkeypatch)
    supervise()
    assert json.loads(file.read_text()) == first
    shell(monkeypatch, "admin:admin,lee:viewer,kim:user")
    supervise()
    then = json.loads(file.read_text())
    assert first.items() <= then.items()
    assert len(set(then.values())) == 3


def test_another_shells_commands_go_by_what_serves(
    home: Path, started: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shell(monkeypatch, "admin:admin,kim:user", port="8081")
    supervise()
    logins = (home / "airflow" / "passwords.json").read_text()
    serve.up()
    assert f"http://localhost:8081\nLogin: admin / {json.loads(logins)['admin']}\n" in capsys.readouterr().out
    shell(monkeypatch)
    serve.up()
    assert capsys.readouterr().out == "Airflow is already up: http://localhost:8081\n"
    with pytest.raises(SystemExit):
        serve.airflow("dags", "list")
    assert started[-1]["AIRFLOW__API__PORT"] == "8081"
    assert started[-1]["AIRFLOW__API__BASE_URL"] == "http://localhost:8081"
    assert (home / "airflow" / "passwords.json").read_text() == logins


@pytest.mark.parametrize(
    ("name", "value", "params"),
    [
        ("", "", '{"preset": "demo"}'),
        ("GESSO_DATASET", "/data", None),
        ("GESSO_PARAMS", '{"epochs": 5}', '{"epochs": 5}'),
    ],
)
def test_on_the_demo_the_schedule_trains_what_the_demo_is_for(
    name: str, value: str, params: str | None, started: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GESSO_DATASET")
    if name:
        monkeypatch.setenv(name, value)
    shell(monkeypatch)
    supervise()
    assert {environment.get("GESSO_PARAMS") for environment in started} == {params}


def test_no_demo_is_drawn_where_the_params_name_a_data_set(
    home: Path, started: list[dict[str, str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tasks.demo.make_demo", lambda folder: folder.mkdir(parents=True))
    monkeypatch.delenv("GESSO_DATASET")
    monkeypatch.setenv("GESSO_PARAMS", '{"dataset": "s3://pictures/all"}')
    shell(monkeypatch)
    serve.up()
    assert not (home / "demo").exists()
    serve._pid_file(home / "airflow").unlink()
    monkeypatch.delenv("GESSO_PARAMS")
    shell(monkeypatch)
    serve.up()
    assert (home / "demo").exists()
