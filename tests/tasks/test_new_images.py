import os
import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import cv2
import numpy as np
import pandas as pd
import pytest

from tasks.core.artifacts import Artifact
from tasks.core.champion import Champion, move_champion
from tasks.core.store import LocalStore
from tasks.new_images import Difference, News, difference, since_champion
from tests.tasks.judging import make

RunStep = Callable[..., Artifact]


def draw(path: Path, seed: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture = np.random.default_rng(seed).integers(0, 255, (8, 8, 3), dtype=np.uint8)
    path.write_bytes(cv2.imencode(".png", picture)[1].tobytes())


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    for number in range(6):
        draw(tmp_path / "pictures" / "ab"[number % 2] / f"{number}.png", number)
    return tmp_path / "pictures"


@pytest.fixture
def trained(store: LocalStore, pictures: Path, tmp_path: Path, run_step: RunStep) -> Artifact:
    """The champion, trained on the pictures as they are."""
    return crown(store, run_step("snapshot", dataset=str(pictures)), tmp_path / "made")


def crown(store: LocalStore, snapshot: Artifact, folder: Path) -> Artifact:
    """Make a model of this snapshot the champion."""
    folder.mkdir()
    made: dict[str, Artifact] = {"snapshot": snapshot}
    for name, inputs in (("cluster", ()), ("resample", ("snapshot", "cluster")), ("train", ("resample",))):
        given = {each: made[each].key for each in inputs}
        made[name] = make(store, name, lambda _: None, folder, inputs=given, observed=None)
    dataset = snapshot.json("snapshot.json")["dataset"]
    assert move_champion(store, dataset, Champion(made["train"].uri, None, "2026-01-01"), None)
    return made["train"]


def test_nothing_is_new(store: LocalStore, pictures: Path, trained: Artifact, run_step: RunStep) -> None:
    news = since_champion(store, run_step("snapshot", dataset=str(pictures)), "")
    assert news == News(Difference(6, 0, 0, 0, [], []), review_edited=False)
    assert not news.is_enough(0)


def test_what_came_changed_and_went_is_counted(
    store: LocalStore, pictures: Path, trained: Artifact, run_step: RunStep
) -> None:
    draw(pictures / "a" / "new.png", 99)
    draw(pictures / "b" / "1.png", 98)
    (pictures / "b" / "3.png").unlink()
    news = since_champion(store, run_step("snapshot", dataset=str(pictures)), "")
    assert news == News(Difference(4, 1, 1, 1, [], []), review_edited=False)
    assert str(news) == "1 new images, 1 changed, 1 gone"
    assert news.is_enough(3)
    assert not news.is_enough(4)


def test_a_changed_class_is_enough(store: LocalStore, pictures: Path, trained: Artifact, run_step: RunStep) -> None:
    draw(pictures / "c" / "1.png", 97)
    shutil.rmtree(pictures / "b")
    news = since_champion(store, run_step("snapshot", dataset=str(pictures)), "")
    assert news is not None
    assert (news.data.new_classes, news.data.gone_classes) == (["c"], ["b"])
    assert news.is_enough(1000)


def test_what_came_after_the_instant_of_a_run_is_not_gone(
    store: LocalStore, pictures: Path, run_step: RunStep, tmp_path: Path
) -> None:
    draw(pictures / "c" / "6.png", 6)
    days = {number: datetime(2026, 1, 1 + number, tzinfo=UTC) for number in range(7)}
    for path in pictures.rglob("*.png"):
        os.utime(path, (days[int(path.stem)].timestamp(),) * 2)
    crown(store, run_step("snapshot", dataset=str(pictures)), tmp_path / "made")
    earlier = run_step("snapshot", dataset=str(pictures), as_of=days[3])
    news = since_champion(store, earlier, "", days[3])
    assert news == News(Difference(4, 0, 0, 0, [], [], later=3), review_edited=False)
    assert str(news) == "0 new images, 0 changed, 0 gone, 3 came or changed after the instant that this run sees"
    assert not news.is_enough(1)

    (pictures / "a" / "0.png").unlink()
    news = since_champion(store, run_step("snapshot", dataset=str(pictures), as_of=days[3]), "", days[3])
    assert news == News(Difference(3, 0, 0, 1, [], [], later=3), review_edited=False)


def test_what_was_changed_after_the_instant_of_a_run_has_not_changed(store: LocalStore, tmp_path: Path) -> None:
    """In a bucket that keeps versions, where the run sees the version before."""
    days = [datetime(2026, 1, day, tzinfo=UTC) for day in range(1, 4)]
    listed = pd.DataFrame({"key": ["a/1", "a/2"], "class": "a", "version": "first", "etag": "", "bytes": 1})

    def snapshot(versions: list[str], modified: list[datetime], name: str) -> Artifact:
        table = listed.assign(version=versions, modified=modified)
        return make(store, "snapshot", lambda out: out.table("images.parquet", table), tmp_path / "made", name)

    (tmp_path / "made").mkdir()
    champion = snapshot(["second", "second"], [days[0], days[2]], "champion")
    earlier = snapshot(["first", "first"], [days[0], days[0]], "earlier")
    assert difference(champion, earlier, days[1]) == Difference(0, 0, 1, 0, [], [], later=1)
    assert difference(champion, earlier) == Difference(0, 0, 2, 0, [], [])


def test_an_edited_review_is_enough(
    store: LocalStore, pictures: Path, trained: Artifact, run_step: RunStep, tmp_path: Path
) -> None:
    (tmp_path / "review.csv").write_text("key,verdict\n")
    news = since_champion(store, run_step("snapshot", dataset=str(pictures)), str(tmp_path / "review.csv"))
    assert news is not None
    assert news.review_edited
    assert news.is_enough(1000)


def test_no_champion_or_one_whose_data_are_lost(
    store: LocalStore, pictures: Path, trained: Artifact, run_step: RunStep, tmp_path: Path
) -> None:
    snapshot = run_step("snapshot", dataset=str(pictures))
    assert since_champion(LocalStore(tmp_path / "other"), snapshot, "") is None
    shutil.rmtree(store.local_path("artifacts/resample"))
    assert since_champion(store, snapshot, "") is None
