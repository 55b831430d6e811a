import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

from tasks.core.artifacts import Artifact
from tasks.core.champion import Champion, move_champion
from tasks.core.store import LocalStore
from tasks.new_images import Difference, News, since_champion
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
    (tmp_path / "made").mkdir()
    snapshot = run_step("snapshot", dataset=str(pictures))
    made: dict[str, Artifact] = {"snapshot": snapshot}
    for name, inputs in (("cluster", ()), ("resample", ("snapshot", "cluster")), ("train", ("resample",))):
        given = {each: made[each].key for each in inputs}
        made[name] = make(store, name, lambda _: None, tmp_path / "made", inputs=given, observed=None)
    assert move_champion(store, str(pictures), Champion(made["train"].uri, None, "2026-01-01"), None)
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
