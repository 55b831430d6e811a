"""Run records: what a run was asked for, and the artifact that each of its steps ended with.

    runs/<dag_id>/<run_id>.json    {dag_id, run_id, params, started, steps: {<step>: [{artifact, metrics, …}, …]}, …}

The report and the lineage are followed through it. Tasks of one run write it at the same time, each by
compare-and-swap.
"""

import json
import random
import time
from collections.abc import Callable
from typing import Any

from tasks.core.errors import NotFound, StoreError
from tasks.core.store import Store

Record = dict[str, Any]


def record_key(dag_id: str, run_id: str) -> str:
    """Where a run's record is in the store."""
    return f"runs/{dag_id}/{run_id}.json"


def read_record(store: Store, dag_id: str, run_id: str) -> Record:
    """A run's record. Raises `NotFound` before its first step."""
    record: Record = json.loads(store.get(record_key(dag_id, run_id)))
    return record


def change_record(store: Store, dag_id: str, run_id: str, change: Callable[[Record], None]) -> Record:
    """Apply `change` to a run's record, whatever other tasks write to it meanwhile.

    Raises:
        StoreError: the record was changed by others at every one of fifty tries.
    """
    key = record_key(dag_id, run_id)
    record: Record
    tag: str | None
    for _ in range(50):
        try:
            data, etag = store.get_with_etag(key)
            record, tag = json.loads(data), etag
        except NotFound:
            record, tag = {"dag_id": dag_id, "run_id": run_id, "steps": {}}, None
        change(record)
        if store.replace(key, json.dumps(record, indent=2, ensure_ascii=False).encode(), tag):
            return record
        time.sleep(random.uniform(0, 0.2))
    raise StoreError(f"The run record {store.uri}/{key} could not be written: others keep changing it. Run again.")
