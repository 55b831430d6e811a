"""A run as the pages show it: its record and artifacts from the store, its tasks' states from Airflow."""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from tasks.core.artifacts import Artifact
from tasks.core.errors import NotFound
from tasks.core.runs import ID, Record, artifacts_of, read_record
from tasks.core.settings import settings
from tasks.core.step import NAMES
from tasks.core.store import Store, in_threads, open_store

#: States of a task after which nothing more comes of it.
ENDED = {"success", "failed", "skipped", "upstream_failed", "removed"}

#: Of several mapped tasks' states, the one that tells most is the first of these.
TELLING = (
    "failed", "running", "up_for_retry", "restarting", "deferred", "awaiting_input", "up_for_reschedule", "queued",
    "scheduled", "upstream_failed", "none", "success", "skipped", "removed",
)  # fmt: skip


@dataclass(frozen=True)
class Run:
    """A run of a DAG that has a record.

    Attributes:
        store: where its artifacts are.
        record: its record.
    """

    store: Store
    record: Record

    @property
    def dag_id(self) -> str:
        return str(self.record["dag_id"])

    @property
    def run_id(self) -> str:
        return str(self.record["run_id"])

    def artifacts(self, step: str) -> list[Artifact]:
        """What the tasks of a step ended with; none where it hasn't ended."""
        return artifacts_of(self.store, self.record, step)

    def artifact(self, step: str) -> Artifact:
        """What a step ended with.

        Raises:
            NotFound: it hasn't ended, or the artifact was removed since.
        """
        found = self.artifacts(step)
        if not found:
            raise NotFound(f"The run {self.run_id} has no artifact of {step}: it has not ended yet, or was removed.")
        return found[-1]

    @cached_property
    def dataset(self) -> str:
        """The data set's address."""
        return str(self.artifact("snapshot").json("snapshot.json")["dataset"])


def find_run(dag_id: str, run_id: str) -> Run:
    """The run of these ids.

    Raises:
        NotFound: it has no record: no step of it has ended, or it isn't a run of Gesso's.
    """
    store = open_store(settings().store_uri)
    if not (ID.fullmatch(dag_id) and ID.fullmatch(run_id)):
        raise NotFound("There is no such run.")
    return _run(store, read_record(store, dag_id, run_id), dag_id, run_id)


def newest_runs(dag_id: str, most: int) -> list[Run]:
    """At most `most` runs of a DAG: those whose records were written last, by what data they saw, newest first."""
    store = open_store(settings().store_uri)
    if not ID.fullmatch(dag_id):
        raise NotFound("There is no such DAG.")
    written = sorted(store.list(f"runs/{dag_id}/"), key=lambda found: found.modified, reverse=True)
    newest = [(found.key, found.etag) for found in written if found.key.endswith(".json")][:most]
    records = in_threads(lambda found: _parsed(store.uri, *found), newest, store.threads)
    ids = [key.removeprefix(f"runs/{dag_id}/").removesuffix(".json") for key, _ in newest]
    runs = [_run(store, record, dag_id, run_id) for run_id, record in zip(ids, records, strict=True) if record]
    return sorted(runs, key=lambda run: (str(run.record.get("as_of", "")), run.run_id), reverse=True)


@lru_cache(4096)
def _parsed(store_uri: str, key: str, etag: str) -> Record:
    """A record as it was when the listing gave it this tag; empty where it is gone or no record."""
    try:
        record = json.loads(open_store(store_uri).get(key))
    except (NotFound, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _run(store: Store, record: Record, dag_id: str, run_id: str) -> Run:
    return Run(store, {"steps": {}, "params": {}} | record | {"dag_id": dag_id, "run_id": run_id})


def task_states(dag_id: str, run_id: str) -> tuple[str, dict[str, list[str]]]:
    """The run's state and those of each task's instances, in Airflow's words; ("", {}) where it has no such run."""
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select

    found: dict[str, list[str]] = {}
    with create_session() as session:
        of_run = (DagRun.dag_id == dag_id, DagRun.run_id == run_id)
        state = session.scalar(select(DagRun.state).where(*of_run))
        of_tasks = (TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id)
        for task, task_state in session.execute(select(TaskInstance.task_id, TaskInstance.state).where(*of_tasks)):
            found.setdefault(task, []).append(str(getattr(task_state, "value", task_state) or "none"))
    return str(getattr(state, "value", state) or ""), found


def steps_so_far(record: Record, states: dict[str, list[str]]) -> list[dict[str, Any]]:
    """Each step with its state, what it ended with, and why it failed, in the order of the workflow."""
    return [
        {
            "step": step,
            "state": _state(record, step, states.get(step, [])),
            "tasks": len(states.get(step, [])),
            "entries": record["steps"].get(step, []),
            "failed": record.get("failed", {}).get(step, []),
        }
        for step in NAMES
    ]


def _state(record: Record, step: str, states: Iterable[str]) -> str:
    known = set(states)
    for telling in TELLING:
        if telling in known:
            return telling
    if record.get("failed", {}).get(step):
        return "failed"
    return "success" if record["steps"].get(step) else "none"
