"""A past run, hashed again and made anew: what is equal, what is not, and why."""

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tasks.__main__ import main
from tasks.core.artifacts import Artifact
from tasks.core.champion import Champion, move_champion, read_champion
from tasks.core.runs import change_record
from tasks.core.step import NAMES
from tasks.core.store import LocalStore
from tests.drawings import KINDS, flat_drawings
from tests.tasks.test_on_s3 import chain


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Two classes of 30 drawings."""
    rng = np.random.default_rng(1)
    for name, colour in zip(("squares", "사각형"), KINDS, strict=True):
        folder = tmp_path / "pictures" / name
        folder.mkdir(parents=True)
        for number, drawing in enumerate(flat_drawings(rng, colour, 30)):
            (folder / f"{number}.png").write_bytes(drawing)
    return tmp_path / "pictures"


@pytest.fixture
def made(pictures: Path, store: LocalStore) -> dict[str, Artifact]:
    """The artifacts of a run of the whole chain, which is recorded as "monday"."""
    made = {name: artifact for name, (artifact, _) in chain(str(pictures), store.uri).items()}

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
