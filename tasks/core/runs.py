"""Run records: what a run was asked for, and the artifact that each of its steps ended with.

    runs/<dag_id>/<run_id>.json    {dag_id, run_id, params, as_of, steps: {<step>: [{artifact, metrics, …}, …]},
                                    failed: {<step>: [{message, at, …}, …]}, …}

The report and the lineage are followed through it. Tasks of one run write it at the same time, each by
compare-and-swap.
"""

import json
import random
import re
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from tasks.core.artifacts import Artifact
from tasks.core.errors import DataError, NotFound, ParamsError, StoreError
from tasks.core.params import SEARCHED
from tasks.core.store import Store

Record = dict[str, Any]

#: What Airflow allows in a run's id, and what a DAG's id is made of. No part of a key that leads elsewhere matches.
ID = re.compile(r"[\w~:+-][\w.~:+-]*")


def record_key(dag_id: str, run_id: str) -> str:
    """Where a run's record is in the store."""
    return f"runs/{dag_id}/{run_id}.json"


def instance_name(instance: Mapping[str, Any]) -> str:
    """What tells a mapped task from the others: "shard 2 of 3", "baseline, fold 3 of 10", "vgg, momentum 0.9"."""
    words = [str(instance["architecture"])] if "architecture" in instance else []
    if "shard" in instance:
        words.append(f"shard {instance['shard'] + 1} of {instance['shards']}")
    if "fold" in instance:
        words.append(f"fold {instance['fold']} of {instance['of_folds']}")
    words += [f"{name} {value}" for name, value in instance.items() if name in SEARCHED]
    return ", ".join(words)


def is_drawn(instance: Mapping[str, Any]) -> bool:
    """Whether a mapped task is a trial whose values a search drew."""
    return not SEARCHED.keys().isdisjoint(instance)


def record_failure(
    store: Store, dag_id: str, run_id: str, step: str, message: str, instance: Mapping[str, Any] | None = None
) -> None:
    """Write into a run's record why a step failed; `instance` tells apart the step's mapped tasks."""

    def change(record: Record) -> None:
        forget_failure(record, step, instance)
        failure: dict[str, Any] = {"message": message, "at": datetime.now(UTC).isoformat(timespec="seconds")}
        failure |= {"instance": dict(instance)} if instance else {}
        record.setdefault("failed", {}).setdefault(step, []).append(failure)

    change_record(store, dag_id, run_id, change)


def mend_failure(store: Store, dag_id: str, run_id: str, step: str, instance: Mapping[str, Any] | None = None) -> None:
    """Take out of a run's record that a step failed, if it is there: it has ended well since."""
    try:
        failed = read_record(store, dag_id, run_id).get("failed", {})
    except NotFound:
        return
    if step in failed:
        change_record(store, dag_id, run_id, lambda record: forget_failure(record, step, instance))


def forget_failure(record: Record, step: str, instance: Mapping[str, Any] | None = None) -> None:
    """Take out of a record that a step failed: it has ended well since."""
    failed = record.get("failed", {})
    left = [each for each in failed.get(step, []) if each.get("instance", {}) != dict(instance or {})]
    failed.pop(step, None)
    if left:
        failed[step] = left


def artifacts_of(store: Store, record: Record, step: str) -> list[Artifact]:
    """The artifacts that a step of the run ended with, in this store: none where it hasn't ended, or they were removed.

    Only step and key are taken from the record, so it can lead to nothing but artifacts.
    """
    addresses = [str(entry["artifact"]).rpartition("/artifacts/")[2] for entry in record["steps"].get(step, [])]
    found = [Artifact.find(store, step, key) for address in addresses if (key := _key(address, step))]
    return [artifact for artifact in found if artifact is not None]


def _key(address: str, step: str) -> str:
    named = re.fullmatch(re.escape(step) + "/([0-9a-f]{32})", address)
    return named[1] if named else ""


def read_record(store: Store, dag_id: str, run_id: str) -> Record:
    """A run's record.

    Raises:
        NotFound: its first step has not ended.
        DataError: the record was damaged.
    """
    key = record_key(dag_id, run_id)
    return _parsed(store, key, store.get(key))


def find_record(store: Store, dag_id: str, run_id: str) -> Record:
    """The record of a run that a person named.

    Raises:
        ParamsError: there is none.
        DataError: the record was damaged.
    """
    try:
        return read_record(store, dag_id, run_id)
    except NotFound:
        raise ParamsError(f"{store.uri} has no record of a run {run_id!r} of {dag_id}.") from None


def _parsed(store: Store, key: str, data: bytes) -> Record:
    try:
        record: Record = json.loads(data)
        record["steps"].items()
        return record
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(
            f"The run's record {store.uri}/{key} can't be read ({type(error).__name__}: {error}). Mend it, or delete "
            f"it to give up the run's artifacts: each step that runs again then begins it anew."
        ) from None


def change_record(store: Store, dag_id: str, run_id: str, change: Callable[[Record], None]) -> Record:
    """Apply `change` to a run's record, whatever other tasks write to it meanwhile.

    Raises:
        DataError: the record was damaged.
        StoreError: the record was changed by others at every one of fifty tries.
    """
    key = record_key(dag_id, run_id)
    record: Record
    tag: str | None
    for _ in range(50):
        try:
            data, etag = store.get_with_etag(key)
            record, tag = _parsed(store, key, data), etag
        except NotFound:
            record, tag = {"dag_id": dag_id, "run_id": run_id, "steps": {}}, None
        change(record)
        if store.replace(key, json.dumps(record, indent=2, ensure_ascii=False).encode(), tag):
            return record
        time.sleep(random.uniform(0, 0.2))
    raise StoreError(f"The run record {store.uri}/{key} could not be written: others keep changing it. Run again.")
