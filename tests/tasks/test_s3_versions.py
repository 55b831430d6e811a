"""A bucket that keeps versions, on a real server: the data set as it was, what was deleted since; and the store."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime

import pytest

from tasks.core.artifacts import Artifact
from tasks.core.errors import Unusable
from tasks.core.runs import change_record, read_record
from tasks.core.store import open_store

pytestmark = pytest.mark.s3


def test_each_instant_is_seen_as_it_was(run_step: Callable[..., Artifact], s3_versioned: str) -> None:
    store = open_store(s3_versioned)
    instants: list[datetime] = []

    def an_instant() -> None:
        time.sleep(1.5)  # the server keeps whole seconds
        instants.append(datetime.now(UTC))
        time.sleep(1.5)

    store.put_many((f"{label}/{number}.png", b"one") for label in ("a", "b") for number in range(3))
    an_instant()
    store.put("a/0.png", b"changed")
    store.delete("b/0.png")
    store.put("b/새 그림.png", b"new")
    an_instant()
    store.put("b/0.png", b"it is back")
    store.delete("a/1.png")
    store.delete("a/1.png")
    an_instant()

    seen = []
    for instant in instants:
        made = run_step("snapshot", dataset=s3_versioned, as_of=instant)
        assert made.metrics["versioned"] is True
        images = made.table("images.parquet")
        seen.append({image.key: store.get(image.key, image.version) for image in images.itertuples()})
    first = {f"{label}/{number}.png": b"one" for label in ("a", "b") for number in range(3)}
    second = {key: data for key, data in first.items() if key != "b/0.png"} | {
        "a/0.png": b"changed",
        "b/새 그림.png": b"new",
    }
    third = {key: data for key, data in second.items() if key != "a/1.png"} | {"b/0.png": b"it is back"}
    assert seen == [first, second, third]


def test_a_store_is_kept_beside_versions_only_where_no_write_is_lost(s3_versioned: str) -> None:
    store, refused = open_store(s3_versioned), ""
    try:
        store.check()
    except Unusable as error:
        refused = str(error)
    if refused:
        assert "keeps versions" in refused
        return
    names = [f"step {number}" for number in range(8)]
    with ThreadPoolExecutor(len(names)) as pool:
        list(
            pool.map(
                lambda name: change_record(store, "d", "r", lambda record: record["steps"].update({name: []})), names
            )
        )
    assert sorted(read_record(store, "d", "r")["steps"]) == names
