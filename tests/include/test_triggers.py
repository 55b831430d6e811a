"""The watch on the data set, as Airflow's triggerer runs it: what it tells of, and when it takes that as told."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from airflow.triggers.shared_stream import AdvanceItem, AdvanceOutcome

from include.assets import IMAGES
from include.triggers import ImagesLanded, Watch
from tasks.core.store import LocalStore
from tasks.watch import look, read_mark

TOLD = AdvanceOutcome(acked=1, failed=0)
LOST = AdvanceOutcome(acked=0, failed=1)

#: How many looks are made; the watch itself never ends.
LOOKS = 8


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number in range(6):
        land(tmp_path / "pictures", f"{number}.png")
    return tmp_path / "pictures"


def land(folder: Path, name: str) -> None:
    (folder / "ab"[len(name) % 2]).mkdir(parents=True, exist_ok=True)
    (folder / "ab"[len(name) % 2] / name).write_bytes(name.encode())


class Stop(Exception):
    """The test has seen enough looks."""


async def follow(
    watch: Watch, monkeypatch: pytest.MonkeyPatch, between: dict[int, Callable[[], Any]], outcome: AdvanceOutcome
) -> list[dict[str, Any]]:
    """The events of `LOOKS` looks, each answered with `outcome`; `between` says what happens after a look."""
    looks, events = 0, []

    async def pause(seconds: float) -> None:
        nonlocal looks
        looks += 1
        if looks == LOOKS:
            raise Stop
        await asyncio.to_thread(between.get(looks, lambda: None))

    monkeypatch.setattr("include.triggers.asyncio.sleep", pause)
    stream: AsyncIterator[Any] = watch.open_stream()
    with contextlib.suppress(Stop):
        async for event, payload in stream:
            events.append(event)
            await watch.advance([AdvanceItem(payload, outcome)])
    return events


def events_of(pictures: Path, monkeypatch: pytest.MonkeyPatch, *, min_images: int = 2, **options: Any) -> Any:
    between, outcome = options.get("between", {}), options.get("outcome", TOLD)
    watch = Watch(str(pictures), seconds=60, min_images=min_images)
    return asyncio.run(follow(watch, monkeypatch, between, outcome))


def test_one_event_for_a_listing_even_when_started_again(
    pictures: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (event,) = events_of(pictures, monkeypatch)
    now = look(str(pictures))
    assert event == {"dataset": str(pictures), "listing": now.digest, "images": 6, "landed": 6}
    assert events_of(pictures, monkeypatch) == []


def test_too_few_are_not_told_of_until_more_come(
    pictures: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    events_of(pictures, monkeypatch)
    assert events_of(pictures, monkeypatch, between={1: lambda: land(pictures, "one.png")}) == []
    (event,) = events_of(pictures, monkeypatch, between={2: lambda: land(pictures, "two more.png")})
    assert event["landed"] == 2


def test_while_images_keep_landing_nothing_is_told(
    pictures: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    landing = {n: lambda n=n: land(pictures, f"{n} more.png") for n in range(1, 5)}
    (event,) = events_of(pictures, monkeypatch, between=landing)
    assert event["images"] == 10


def test_what_airflow_did_not_write_down_is_told_again(
    pictures: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    (lost,) = events_of(pictures, monkeypatch, outcome=LOST)
    assert read_mark(store, str(pictures)) is None
    (again,) = events_of(pictures, monkeypatch)
    assert again == lost


def test_a_data_set_that_is_away_is_asked_for_again(
    pictures: Path, store: LocalStore, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    away = tmp_path / "away"
    pictures.rename(away)
    pictures.touch()  # a file where a folder should be can't be listed

    def come_back() -> None:
        pictures.unlink()
        away.rename(pictures)

    (event,) = events_of(pictures, monkeypatch, between={3: come_back})
    assert event["images"] == 6


def test_the_watcher_survives_being_written_down() -> None:
    (watcher,) = IMAGES.watchers
    trigger = watcher.trigger
    path, arguments = trigger.serialize()
    assert path == f"{ImagesLanded.__module__}.{ImagesLanded.__qualname__}"
    assert ImagesLanded(**arguments).serialize() == (path, arguments)
    assert trigger.shared_stream_key() == ImagesLanded(**arguments).shared_stream_key()
