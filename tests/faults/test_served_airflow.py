"""SIGKILL of what a served Airflow is made of: the run completes, and each artifact is made once and whole."""

import contextlib
import re
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks.core.step import NAMES
from tests.faults.conftest import Airflow, Run, committed, kill, strays, wait_for

pytestmark = [pytest.mark.faults, pytest.mark.timeout(900)]

#: Params of the first run: a later one that trains longer reuses all before the training.
FIRST: dict[str, Any] = {"max_megapixels": 50}


def task_process(process: psutil.Process) -> psutil.Process:
    """Airflow's process of the task that this process works for: itself, or for a step apart, its parent."""
    while "LocalExecutor" not in " ".join(process.parent().cmdline()):
        process = process.parent()
    return process


def kill_each_once(airflow: Airflow, run: Run, steps: Iterable[str], *, supervisor: bool) -> None:
    """Kill the process of each step in its middle, the first time that it is there, and maybe who watches over it."""
    left, asked = set(steps), time.monotonic()
    while left:
        for step in sorted(left):
            process = airflow.at_work(step)
            if process is None:
                continue
            process.suspend()
            task = task_process(process)
            kill(*([task.parent()] if supervisor else []), task, *([] if supervisor else [process]))
            process.resume()
            left.discard(step)
        if time.monotonic() - asked > 2:
            asked = time.monotonic()
            assert run.state in ("queued", "running"), f"the run ended before {', '.join(left)} could be killed"
        time.sleep(0.002)


@pytest.mark.parametrize(
    ("steps", "supervisor"),
    [(NAMES, False), (("train",), True)],
    ids=["task", "task and supervisor"],
)
def test_the_worker_dies_during_a_step(airflow: Airflow, steps: tuple[str, ...], supervisor: bool) -> None:
    """Where Airflow's supervisor of the task dies too, nobody reports the death: the missing heartbeats tell."""
    run = airflow.trigger(**(FIRST | {"max_megapixels": 51} if supervisor else FIRST))
    kill_each_once(airflow, run, steps, supervisor=supervisor)
    tasks = run.succeeds()
    assert {name for name in NAMES if tasks[name]["try_number"] > 1} >= set(steps)
    made = run.artifacts()
    for name in NAMES:
        assert made[name].key in {artifact.key for artifact in committed(airflow.store, name)}


def test_the_scheduler_dies_during_a_training(airflow: Airflow) -> None:
    before = {artifact.key for artifact in committed(airflow.store, "train")}
    run = airflow.trigger(**FIRST, epochs=30)
    wait_for(lambda: airflow.at_work("train"), "the training")
    scheduler = airflow.part("scheduler")
    kill(scheduler)
    tasks = run.succeeds()
    assert airflow.part("scheduler").pid != scheduler.pid
    assert "scheduler ended with status -9; starting it again." in airflow.log()
    assert tasks["train"]["try_number"] > 1, "what ran below the dead scheduler was ended, and taken up"
    run.artifacts()
    assert len({artifact.key for artifact in committed(airflow.store, "train")} - before) == 1


def test_every_other_part_dies_and_is_started_again(airflow: Airflow) -> None:
    """The API server with a task at work, then the DAG processor and the triggerer."""
    run = airflow.trigger(**FIRST, epochs=31)
    wait_for(lambda: airflow.at_work("train"), "the training")
    parts = {name: airflow.part(name) for name in ("api-server", "dag-processor", "triggerer")}
    kill(*parts.values())
    psutil.wait_procs(list(parts.values()), timeout=60)
    wait_for(airflow.is_healthy, "the parts", pause=1)
    run.succeeds()
    run.artifacts()
    assert all(airflow.part(name).pid != part.pid for name, part in parts.items())


def test_two_runs_of_one_snapshot_at_once(airflow: Airflow) -> None:
    """Both succeed with the same artifacts, each of them committed once; only one of the two trains."""
    before = {name: {artifact.key for artifact in committed(airflow.store, name)} for name in NAMES}
    runs = [airflow.trigger(max_megapixels=52, epochs=20) for _ in range(2)]
    for run in runs:
        run.succeeds()
    one, other = (run.artifacts() for run in runs)
    assert {name: made.key for name, made in one.items()} == {name: made.key for name, made in other.items()}
    for name in NAMES:
        new = {artifact.key for artifact in committed(airflow.store, name)} - before[name]
        assert new <= {one[name].key}
        assert name == "snapshot" or new == {one[name].key}
        assert not strays(airflow.store, name), "whoever came second left its files"
    assert sorted(run.record()["train"][-1]["reused"] for run in runs) == [False, True]


def test_a_part_that_keeps_dying_is_given_up(airflow: Airflow) -> None:
    supervisor = airflow.supervisor()
    while not airflow.is_down(supervisor.pid):
        with contextlib.suppress(psutil.NoSuchProcess):
            kill(airflow.part("triggerer"))
        time.sleep(0.5)
    assert re.search(r"triggerer ended 6 times within an hour; stopping the others\.", airflow.log())


def test_what_a_killed_supervisor_left_is_ended_by_down(airflow: Airflow, dataset: Path) -> None:
    """It can be started again before, from the same database; afterwards nothing of it runs."""
    airflow.start(dataset)
    supervisor = airflow.supervisor()
    kill(supervisor)
    assert not airflow.is_down(supervisor.pid)
    airflow.stop()
    assert airflow.is_down(supervisor.pid)
