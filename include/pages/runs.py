"""A run as the pages show it: its record and artifacts from the store, its tasks' states from Airflow."""

import json
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from tasks.core.artifacts import Artifact
from tasks.core.errors import NotFound
from tasks.core.runs import ID, Record, artifacts_of, instance_name, read_record
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

#: Of each step's metrics, those that say most about the data and the model, and how the page calls them.
KEY_FIGURES = {
    "snapshot": {"images": "images", "classes": "classes", "ignored": "files ignored when first listed"},
    "scan": {"images": "images", "unreadable": "unreadable", "remembered": "known from before"},
    "validate": {
        "kept": "kept", "quarantined": "quarantined", "duplicates": "duplicates",
        "conflicts": "in two classes", "warnings": "warnings",
    },
    "eda": {"exact_groups": "groups of the same bytes", "near_groups": "groups that look alike"},
    "cluster": {"photos": "photographs", "unsure": "unsure", "contaminated_classes": "classes with photographs"},
    "drift": {"drifted": "measures that moved", "furthest": "furthest"},
    "resample": {
        "images": "used", "train": "in the training part", "train_drawn": "drawn an epoch",
        "validation": "for validation", "test": "for the test",
    },
    "pack": {"images": "images", "copied": "known from before"},
    "train": {"epochs": "epochs", "val_macro_f1": "validation macro F1", "val_accuracy": "validation accuracy"},
    "evaluate": {"images": "test images", "macro_f1": "macro F1", "accuracy": "accuracy"},
    "promote": {"verdict": "verdict"},
    "report": {},
}  # fmt: skip

#: Files that a person looks at, by what their names end with, and what a browser is told that they are.
PICTURES, TABLES = {".svg": "image/svg+xml"}, {".csv": "text/csv"}


@dataclass(frozen=True)
class Records:
    """Which records a DAG's runs have; a record that changes gets another tag.

    Attributes:
        store: where they are.
        dag_id: the DAG.
        tagged: key and tag of each.
    """

    store: str
    dag_id: str
    tagged: tuple[tuple[str, str], ...]


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


def begun_run(dag_id: str, run_id: str) -> Run:
    """A run of Airflow's of which no step has ended."""
    return _run(open_store(settings().store_uri), {}, dag_id, run_id)


def newest_records(dag_id: str, most: int) -> Records:
    """At most `most` records of a DAG's runs, those that were written last.

    Raises:
        NotFound: no DAG has such an id.
    """
    if not ID.fullmatch(dag_id):
        raise NotFound("There is no such DAG.")
    store = open_store(settings().store_uri)
    found = [each for each in store.list(f"runs/{dag_id}/") if each.key.endswith(".json")]
    written = sorted(found, key=lambda each: each.modified, reverse=True)
    return Records(store.uri, dag_id, tuple((each.key, each.etag) for each in written[:most]))


@lru_cache(8)
def runs_of(records: Records) -> list[Run]:
    """The runs of these records, by what data they saw, newest first."""
    store, dag_id = open_store(records.store), records.dag_id
    read = in_threads(lambda tagged: _parsed(store.uri, *tagged), records.tagged, store.threads)
    ids = [key.removeprefix(f"runs/{dag_id}/").removesuffix(".json") for key, _ in records.tagged]
    runs = [_run(store, record, dag_id, run_id) for run_id, record in zip(ids, read, strict=True) if record]
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


@dataclass(frozen=True)
class Progress:
    """How far Airflow is with a run.

    Attributes:
        state: the run's, in Airflow's words; empty where Airflow has no such run.
        seconds: since it began, until its end; None before.
        states: those of each task's instances.
        running: of each task that runs, the seconds since its first instance began.
    """

    state: str = ""
    seconds: float | None = None
    states: dict[str, list[str]] = field(default_factory=dict)
    running: dict[str, float] = field(default_factory=dict)

    @property
    def goes_on(self) -> bool:
        return bool(self.state) and self.state not in ENDED

    @property
    def asks(self) -> bool:
        """Whether a person is asked something."""
        return any("awaiting_input" in states for states in self.states.values())


def progress(dag_id: str, run_id: str) -> Progress:
    """How far Airflow is with this run."""
    from airflow.models.dagrun import DagRun
    from airflow.models.taskinstance import TaskInstance
    from airflow.utils.session import create_session
    from sqlalchemy import select

    columns = (TaskInstance.task_id, TaskInstance.state, TaskInstance.start_date)
    with create_session() as session:
        of_run = (DagRun.dag_id == dag_id, DagRun.run_id == run_id)
        run = session.execute(select(DagRun.state, DagRun.start_date, DagRun.end_date).where(*of_run)).first()
        of_tasks = (TaskInstance.dag_id == dag_id, TaskInstance.run_id == run_id)
        tasks = session.execute(select(*columns).where(*of_tasks)).all()
    if run is None:
        return Progress()
    now, states, running = datetime.now(UTC), dict[str, list[str]](), dict[str, float]()
    for task, state, began in tasks:
        states.setdefault(task, []).append(_word(state) or "none")
        if _word(state) == "running" and began:
            running[task] = max(running.get(task, 0.0), (now - began).total_seconds())
    seconds = ((run.end_date or now) - run.start_date).total_seconds() if run.start_date else None
    return Progress(_word(run.state), seconds, states, running)


def _word(state: Any) -> str:
    return str(getattr(state, "value", state) or "")


def steps_so_far(run: Run, airflow: Progress) -> list[dict[str, Any]]:
    """Each step with its state, what it ended with, why it failed and what there is to look at, in their order."""
    return [
        {
            "step": step,
            "state": _state(run.record, step, airflow.states.get(step, [])),
            "tasks": len(airflow.states.get(step, [])),
            "running": airflow.running.get(step),
            "done": [_done(step, entry) for entry in run.record["steps"].get(step, [])],
            "failed": [
                {"name": instance_name(each.get("instance", {})), "message": each["message"]}
                for each in run.record.get("failed", {}).get(step, [])
            ],
            "pictures": _files(run, step, PICTURES),
            "tables": _files(run, step, TABLES),
        }
        for step in NAMES
    ]


def _done(step: str, entry: Record) -> dict[str, Any]:
    metrics = entry["metrics"]
    return {
        "name": instance_name(entry.get("instance", {})),
        "seconds": entry["seconds"],
        "reused": entry["reused"],
        "figures": {words: metrics.get(name) for name, words in KEY_FIGURES.get(step, {}).items()},
    }


def _files(run: Run, step: str, kinds: Iterable[str]) -> list[dict[str, str]]:
    return [
        {"key": artifact.key, "name": name, "title": Path(name).stem}
        for artifact in run.artifacts(step)
        for name in artifact.names()
        if Path(name).suffix in kinds
    ]


def open_file(run: Run, step: str, key: str, name: str) -> tuple[bytes, str]:
    """A file that a step of the run wrote, and its media type: one of those that a person looks at.

    Raises:
        NotFound: the run has no such file.
    """
    kind = (PICTURES | TABLES).get(Path(name).suffix)
    for artifact in run.artifacts(step) if step in NAMES and kind else ():
        if artifact.key == key and artifact.has(name):
            return artifact.path(name).read_bytes(), str(kind)
    raise NotFound(f"The run {run.run_id} has no such file.")


def _state(record: Record, step: str, states: Iterable[str]) -> str:
    known = set(states)
    for telling in TELLING:
        if telling in known:
            return telling
    if record.get("failed", {}).get(step):
        return "failed"
    return "success" if record["steps"].get(step) else "none"
