"""`make run` says what of its params can't be used before Airflow starts, and one run leaves the next alone."""

import json
import multiprocessing
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from airflow.sdk import DAG
from airflow.sdk.definitions.param import ParamsDict

from include import run
from include.assets import CHAMPION
from include.form import trigger_form
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


#: What Gesso takes, and Airflow's JSON schema doesn't.
LOOSE = {
    "as_of": "2026-03-01", "epochs": "5", "batch_size": 8.0, "promote": "no", "dry_run": 1, "hour_price": "2.5",
    "search": {"batch_size": ["16", 32]}, "trials": "2",
}  # fmt: skip

#: The same as Airflow is told.
STRICT = {
    "as_of": "2026-03-01T00:00:00Z", "epochs": 5, "batch_size": 8, "promote": False, "dry_run": True, "hour_price": 2.5,
    "search": {"batch_size": [16, 32]}, "trials": 2,
}  # fmt: skip


@pytest.mark.parametrize("variable", ["PARAMS", "GESSO_PARAMS"])
def test_airflow_takes_what_gesso_takes(variable: str, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[dict[str, Any]] = []
    monkeypatch.setattr(run, "_run", lambda conf: asked.append(conf) or 0)
    if variable == "GESSO_PARAMS":
        monkeypatch.setenv(variable, json.dumps(LOOSE))
        settings.cache_clear()
    given = json.dumps(LOOSE) if variable == "PARAMS" else ""
    assert run.main(["--dataset", "s3://a/b", "--params", given]) == 0
    assert asked == [{"preset": "quick", "dataset": "s3://a/b", **STRICT}]
    form = ParamsDict(trigger_form())
    form.validate()
    form.update(asked[0])
    assert STRICT.items() <= form.validate().items()


@pytest.mark.parametrize(
    ("params", "said"),
    [
        ('{"epochs": 0}', "GESSO_PARAMS can't be used. epochs = 0: "),
        ("{preset: demo}", "GESSO_PARAMS is not JSON: "),
        ("1" * 5000, "GESSO_PARAMS is not JSON: "),
        ("[]", "GESSO_PARAMS: Input should be a valid dictionary"),
    ],
)
def test_params_of_the_environment_that_can_not_be_used(
    params: str, said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GESSO_PARAMS", params)
    settings.cache_clear()
    assert run.main([]) == 2
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
    assert f"gesso: make run: there is no such file ({home}/airflow-run: Not a directory)" in capsys.readouterr().err


def test_no_task_needs_an_asset_that_only_a_scheduler_could_retire(monkeypatch: pytest.MonkeyPatch) -> None:
    """With another default data set than before, Airflow would fail it for an inactive asset."""
    needed: list[Any] = []

    def test(dag: DAG, **_: Any) -> Any:
        needed.extend(asset for task in dag.tasks for asset in [*task.inlets, *task.outlets])
        return SimpleNamespace(run_id="a run", state="success")

    monkeypatch.setattr("airflow.utils.db.initdb", lambda: None)
    monkeypatch.setattr(DAG, "test", test)
    assert run.inside({}) == 0
    assert needed == [CHAMPION]


#: In place of Python: Airflow's process, whose run starts a process that outlives it, and goes on until it is killed.
ENDLESS = """#!{python}
import os, runpy, subprocess, sys, time
from types import SimpleNamespace

def test(**_):
    child = subprocess.Popen(["sleep", "600"], close_fds=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with open("{pids}.part", "w") as file:
        file.write(f"{{os.getpid()}} {{child.pid}}")
    os.rename("{pids}.part", "{pids}")
    time.sleep(600)

dag = SimpleNamespace(test=test, get_task=lambda _: SimpleNamespace())
bag = SimpleNamespace(import_errors={{}}, dags={{"retrain": dag}})
sys.modules["airflow.utils.db"] = SimpleNamespace(initdb=lambda: None)
sys.modules["airflow.dag_processing.dagbag"] = SimpleNamespace(DagBag=lambda _: bag)
sys.argv = sys.argv[2:]
runpy.run_module("include.run", run_name="__main__")
"""


def wait_for(what: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not what():
        assert time.monotonic() < until
        time.sleep(0.02)


WORDS = ["--dataset", "s3://a/b"]


@contextmanager
def going_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, int]]:
    """A run that goes on: its process and its Airflow's number. The next one's Airflow fails at once."""
    python, pids = tmp_path / "python", tmp_path / "pids"
    python.write_text(ENDLESS.format(python=sys.executable, pids=pids))
    python.chmod(0o755)
    monkeypatch.setattr(run.sys, "executable", str(python))
    process = multiprocessing.get_context("fork").Process(target=lambda: sys.exit(run.main(WORDS)))
    process.start()
    wait_for(pids.exists)
    started = [int(pid) for pid in pids.read_text().split()]
    monkeypatch.setattr(run.sys, "executable", "false")
    try:
        yield process, started[0]
    finally:
        process.kill()
        for pid in started:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_one_run_at_a_time(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    def refused() -> bool:
        assert run.main(WORDS) == 1
        return f"gesso: Another `make run` goes on in GESSO_HOME={home}. Wait for it" in capfd.readouterr().err

    with going_on(tmp_path, monkeypatch) as (first, airflow):
        assert refused()
        os.kill(first.pid, signal.SIGKILL)
        first.join()
        assert refused(), "its Airflow goes on"
        os.kill(airflow, signal.SIGKILL)
        wait_for(lambda: not refused())


def test_stopped_by_hand_it_says_what_is_kept_and_the_next_run_can_begin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    with going_on(tmp_path, monkeypatch) as (first, _):
        os.kill(first.pid, signal.SIGINT)
        first.join(60)
        assert first.exitcode == 130
        assert capfd.readouterr().err == "gesso: stopped; what is finished is kept. Run again to go on.\n"
        assert run.main(WORDS) == 1
        assert "Another `make run` goes on" not in capfd.readouterr().err
