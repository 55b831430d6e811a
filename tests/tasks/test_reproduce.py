"""A past run, hashed again and made anew: what is equal, what is not, and why."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tasks.__main__ import main
from tasks.core.artifacts import Artifact
from tasks.core.champion import Champion, move_champion, read_champion
from tasks.core.runs import change_record
from tasks.core.step import NAMES, load
from tasks.core.store import LocalStore

PARAMS: dict[str, dict[str, Any]] = {
    "validate": {"near_duplicate_bits": 0},
    "resample": {"image_size": 32, "min_per_class": 20, "max_per_class": 100},
    "train": {"architecture": "baseline", "image_size": 32, "epochs": 2},
    "promote": {"min_macro_f1": 0.0},
}


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of 30 drawings."""
    rng = np.random.default_rng(1)
    for name, colour in (("squares", (200, 60, 40)), ("사각형", (40, 60, 200))):
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for number in range(30):
            picture = np.full((48, 48, 3), 255, np.uint8)
            left, top = rng.integers(2, 20, 2)
            cv2.rectangle(picture, (int(left), int(top)), (int(left) + 24, int(top) + 22), colour, -1)
            picture[rng.integers(0, 48, 12), rng.integers(0, 48, 12)] = rng.integers(0, 255, (12, 3))
            (folder / f"{number}.png").write_bytes(cv2.imencode(".png", picture)[1].tobytes())
    return tmp_path / "pictures"


@pytest.fixture
def made(pictures: Path, store: LocalStore, run_step: Callable[..., Artifact]) -> dict[str, Artifact]:
    """The artifacts of a run of the whole chain, which is recorded as "monday"."""
    made: dict[str, Artifact] = {}
    for name in NAMES:
        inputs = {given: made[given] for given in (each.rstrip("*?") for each in load(name).inputs)}
        made[name] = run_step(name, inputs, **PARAMS.get(name, {}), **({} if inputs else {"dataset": str(pictures)}))

    def change(record: dict[str, Any]) -> None:
        record |= {"run_type": "manual", "as_of": "", "params": {}}
        record["steps"] = {name: [{"artifact": artifact.uri}] for name, artifact in made.items()}

    change_record(store, "retrain", "monday", change)
    return made


def said(capsys: pytest.CaptureFixture[str]) -> dict[str, str]:
    """What was said of each artifact."""
    lines = capsys.readouterr().out.splitlines()
    return {line[:28].strip(): line[29:].strip() for line in lines if line[28:29] == " "}


def test_a_run_is_made_anew_byte_for_byte(
    made: dict[str, Artifact], pictures: Path, store: LocalStore, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    # What has come since must not be seen: a review, another champion.
    flat = cv2.imencode(".png", np.zeros((40, 40, 3), np.uint8))[1].tobytes()
    (pictures / "review.csv").write_text("key,verdict\nsquares/1.png,photo\n")
    _, etag = read_champion(store, str(pictures))
    assert move_champion(store, str(pictures), Champion(made["train"].uri, "elsewhere", "2026"), etag)

    capsys.readouterr()
    assert main(["verify", "monday"]) == 0
    assert said(capsys) == dict.fromkeys((*NAMES, "images of the data set"), "equal")

    there = {path: path.read_bytes() for path in (tmp_path / "gesso" / "store").rglob("*.json")}
    assert main(["reproduce", "monday", "--into", str(tmp_path / "anew")]) == 0
    assert said(capsys) == dict.fromkeys(NAMES, "equal")
    assert {path: path.read_bytes() for path in (tmp_path / "gesso" / "store").rglob("*.json")} == there
    anew = LocalStore(tmp_path / "anew")
    assert {found.key.split("/")[1] for found in anew.list("artifacts/")} == set(NAMES)

    # And what was changed must be said.
    (pictures / "squares" / "1.png").write_bytes(flat)
    (pictures / "squares" / "2.png").unlink()
    weights = next(made["train"].path(name) for name in made["train"].names() if name.endswith(".keras"))
    weights.write_bytes(b"other weights")
    assert main(["verify", "monday"]) == 1
    answer = said(capsys)
    assert answer["train"] == f"DIFFERENT  {weights.name} was changed"
    assert answer["images of the data set"] == "DIFFERENT  squares/1.png was changed, squares/2.png is gone"
    assert answer["scan"] == "equal"

    assert main(["reproduce", "monday", "--into", str(tmp_path / "again")]) == 1
    assert said(capsys)["snapshot"] == "DIFFERENT  images.parquet, snapshot.json"


def test_a_run_that_is_not_there_and_a_store_that_will_not_do(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "tuesday"]) == 2
    assert "has no record of a run 'tuesday' of retrain" in capsys.readouterr().err
    change_record(store, "retrain", "wednesday", lambda record: record.update(params={}))
    assert main(["reproduce", "wednesday", "--into", store.uri]) == 2
    assert "--into names the run's own store" in capsys.readouterr().err


def test_a_removed_artifact_is_told_of(store: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    gone = f"{store.uri}/artifacts/scan/{'0' * 32}"
    change_record(store, "retrain", "monday", lambda record: record["steps"].update(scan=[{"artifact": gone}]))
    assert main(["verify", "monday"]) == 1
    assert said(capsys) == {"scan": "DIFFERENT  it was removed"}
