"""What a run's record says of it, also where the run is run again, and what is told of the champion."""

from collections.abc import Callable
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest

from include import steps
from tasks.core.artifacts import Artifact
from tasks.core.champion import Champion, move_champion, read_champion
from tasks.core.errors import StoreError
from tasks.core.params import Params
from tasks.core.runs import Record, read_record
from tasks.core.store import Store

RUN = {"dag_id": "retrain", "run_id": "scheduled__1", "data_interval_end": datetime(2026, 1, 11, tzinfo=UTC)}

Begin = Callable[..., dict[str, Any]]


@pytest.fixture
def task(monkeypatch: pytest.MonkeyPatch) -> Begin:
    """Begins a task of the run: task("backfill", try_number=2, epochs=20). Returns its context."""

    def begin(run_type: str = "scheduled", try_number: int = 1, **params: Any) -> dict[str, Any]:
        context = {"dag_run": SimpleNamespace(**RUN, run_type=run_type), "ti": SimpleNamespace(try_number=try_number)}
        monkeypatch.setattr(steps, "run_params", lambda: Params.of(params))
        monkeypatch.setattr(steps, "get_current_context", lambda: context)
        return context

    return begin


def end(context: dict[str, Any], *names: str) -> None:
    """End these steps, as their tasks do."""
    for name in names:
        made: Any = SimpleNamespace(uri=f"/store/artifacts/{name}/1", metrics={})
        steps._record(context, name, {}, made, False, 1.0)


def fail(name: str) -> None:
    with pytest.raises(StoreError), steps.failing_well(name):
        raise StoreError("The store is away.")


def record_of(store: Store) -> Record:
    return read_record(store, "retrain", "scheduled__1")


def test_a_run_that_is_run_again_is_what_it_was_asked_for_last(task: Begin, store: Store) -> None:
    end(task(epochs=200), "snapshot", "scan", "train", "promote", "report")
    end(task("backfill", dry_run=True, epochs=20), "snapshot", "scan")
    record = record_of(store)
    assert (record["run_type"], record["params"]["epochs"], record["params"]["dry_run"]) == ("backfill", 20, True)
    assert list(record["steps"]) == ["snapshot", "scan"]


def test_a_step_that_is_made_again_has_no_report_yet(task: Begin, store: Store) -> None:
    end(task(epochs=200), "snapshot", "train", "report")
    end(task(epochs=200), "train")
    assert list(record_of(store)["steps"]) == ["snapshot", "train"]


@pytest.mark.parametrize("as_of", [None, datetime(2026, 1, 7, tzinfo=UTC)])
def test_a_scheduled_run_weighs_what_is_new_at_its_instant(
    as_of: datetime | None, task: Begin, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[Any] = []
    monkeypatch.setattr("tasks.new_images.since_champion", lambda *given: asked.append(given[-1]))
    monkeypatch.setattr(Artifact, "open", lambda uri: uri)
    task(as_of=as_of)
    steps.enough_new.function("snapshot")
    assert asked == [as_of or RUN["data_interval_end"]]


def test_a_failure_that_another_try_mended_is_forgotten(task: Begin, store: Store) -> None:
    end(task(), "snapshot")
    fail("enough_new")
    fail("scan_shards")
    assert list(record_of(store)["failed"]) == ["enough_new", "scan_shards"]
    task(try_number=2)
    with steps.failing_well("enough_new"):
        pass
    assert list(record_of(store)["failed"]) == ["scan_shards"]
    end(task(), "report")
    assert record_of(store)["failed"] == {}


@pytest.mark.parametrize(
    ("moves", "try_number", "told"), [(True, 1, 1), (False, 1, 0), (False, 2, 1)], ids=["moved", "as it was", "a retry"]
)
def test_a_new_champion_is_told_where_the_pointer_moved(
    moves: bool,
    try_number: int,
    told: int,
    task: Begin,
    dataset: Any,
    store: Store,
    run_step: Callable[..., Artifact],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Also where the decision was made before; and where a first try may have died before it could tell."""
    snapshot, events = run_step("snapshot", dataset=str(dataset)), []

    def promote(*_: Any) -> Any:
        if moves:
            _, etag = read_champion(store, str(dataset))
            assert move_champion(store, str(dataset), Champion("/store/artifacts/train/1", None, "2026-01-11"), etag)
        return SimpleNamespace(reused=True, artifact=SimpleNamespace(metrics={"verdict": "PROMOTE"}))

    monkeypatch.setattr(steps, "execute", promote)
    monkeypatch.setattr(steps, "champion_changed", lambda *told: events.append(told))
    monkeypatch.setattr(steps, "finish", lambda *_: "")
    task(try_number=try_number)
    others = dict.fromkeys(("resample", "pack", "train", "evaluate"), "/store/artifacts/other/1")
    steps._run_step("promote", {"snapshot": snapshot.uri, **others}, {})
    assert len(events) == told
