"""A past run, hashed again and made anew: what is equal, what is not, and why."""

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from tasks import reproduce
from tasks.__main__ import main
from tasks.core.artifacts import MANIFEST, Artifact
from tasks.core.champion import Champion, move_champion, read_champion
from tasks.core.errors import TRY_AGAIN, Archived, DataError
from tasks.core.runs import change_record, record_failure
from tasks.core.step import NAMES, load
from tasks.core.store import LocalStore
from tests.drawings import KINDS, flat_drawings
from tests.tasks.test_on_s3 import chain

RunStep = Callable[..., Artifact]


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


def test_a_decision_on_the_champion_itself_is_made_anew(
    made: dict[str, Artifact], store: LocalStore, run_step: RunStep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    given = {name.rstrip("*?"): made[name.rstrip("*?")] for name in load("promote").inputs}
    again = run_step("promote", given, min_macro_f1=0, promote=False)
    assert again.json("decision.json")["in_use"]

    def change(record: dict[str, Any]) -> None:
        record |= {"run_type": "manual", "as_of": "", "params": {}}
        record["steps"] = {name: [{"artifact": each.uri}] for name, each in {**made, "promote": again}.items()}

    change_record(store, "retrain", "backfill", change)
    main(["reproduce", "backfill", "--into", str(tmp_path / "anew")])
    assert said(capsys)["promote"] == "equal"


def test_an_image_that_was_archived_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def get(*_: object) -> bytes:
        raise Archived("the object is archived")

    monkeypatch.setattr(LocalStore, "get", get)
    assert reproduce._what_became(LocalStore(tmp_path), ("a/1.png", None, "0" * 64)) == "a/1.png is archived"


def test_a_dry_run_is_made_anew_with_the_times_that_it_told(
    made: dict[str, Artifact], store: LocalStore, run_step: RunStep, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = {name: made[name] for name in NAMES[: NAMES.index("pack")]}
    inputs = {name: artifact for name, artifact in before.items() if name != "scan"}
    report = run_step("report", inputs, architectures=["baseline"], image_size=32)
    assert report.manifest["observed"]["baseline"] > 0
    store.put(f"artifacts/train/{'0' * 32}/{MANIFEST}", b"damaged")

    def change(record: dict[str, Any]) -> None:
        record |= {"run_type": "manual", "as_of": "", "params": {}}
        record["steps"] = {name: [{"artifact": each.uri}] for name, each in {**before, "report": report}.items()}

    change_record(store, "retrain", "dry", change)
    assert main(["reproduce", "dry", "--into", str(tmp_path / "anew")]) == 0
    assert set(said(capsys).values()) == {"equal"}


def test_a_run_that_is_not_there_and_a_store_that_will_not_do(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["verify", "tuesday"]) == 2
    assert "has no record of a run 'tuesday' of retrain" in capsys.readouterr().err
    entry = {"artifact": f"{store.uri}/artifacts/snapshot/{'0' * 32}"}
    change_record(store, "retrain", "wednesday", lambda record: record["steps"].update(snapshot=[entry]))
    assert main(["reproduce", "wednesday", "--into", store.uri]) == 2
    assert "--into names the run's own store" in capsys.readouterr().err


def test_a_removed_artifact_is_told_of(store: LocalStore, capsys: pytest.CaptureFixture[str]) -> None:
    gone = f"{store.uri}/artifacts/scan/{'0' * 32}"
    change_record(store, "retrain", "monday", lambda record: record["steps"].update(scan=[{"artifact": gone}]))
    assert main(["verify", "monday"]) == 1
    assert said(capsys) == {"scan": "DIFFERENT  it was removed"}


def test_a_run_of_which_no_step_has_ended_is_not_said_to_be_as_it_was(
    store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    record_failure(store, "retrain", "monday", "snapshot", "There are no images.")
    for command in ("verify", "reproduce"):
        assert main([command, "monday"]) == 1
        said = capsys.readouterr()
        assert said.out == ""
        assert f"No step of the run 'monday' has ended: there is nothing to {command}." in said.err


@pytest.mark.parametrize("content", [b"{", b"\xff", b"[]", b'{"steps": 3}', b"{}"])
def test_a_damaged_record_is_explained_and_kept(
    content: bytes, store: LocalStore, capsys: pytest.CaptureFixture[str]
) -> None:
    store.put("runs/retrain/monday.json", content)
    assert main(["verify", "monday"]) == 1
    assert "runs/retrain/monday.json can't be read (" in capsys.readouterr().err
    with pytest.raises(DataError, match="Mend it, or delete it to give up the run's artifacts"):
        record_failure(store, "retrain", "monday", "snapshot", "There are no images.")
    assert store.get("runs/retrain/monday.json") == content


@pytest.fixture
def recorded(store: LocalStore) -> None:
    """A run "monday" of which a snapshot is there."""
    key = "0" * 32
    store.put(f"artifacts/snapshot/{key}/{MANIFEST}", json.dumps({"step": "snapshot", "key": key}).encode())
    entry = {"artifact": f"{store.uri}/artifacts/snapshot/{key}"}
    change_record(store, "retrain", "monday", lambda record: record["steps"].update(snapshot=[entry]))


@pytest.mark.parametrize("into", [[], ["--into", "anew"]], ids=["by itself", "--into"])
def test_where_an_earlier_attempt_left_something_nothing_is_found_and_called_equal(
    into: list[str],
    recorded: None,
    home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    left = (tmp_path / "anew" if into else home / "reproduced" / "monday") / "remembered" / "scan" / "rows"
    left.parent.mkdir(parents=True)
    left.write_bytes(b"rows")
    assert main(["reproduce", "monday", *into]) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert f"{left.parents[2]} is not empty" in said.err
    assert "Name an empty folder or prefix with --into" in said.err
    assert left.read_bytes() == b"rows"


def test_told_to_stop_it_stops(
    recorded: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def stop(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr("tasks.reproduce._make_anew", stop)
    assert main(["reproduce", "monday"]) == TRY_AGAIN
    assert "It was told to stop. Run again into an empty store" in capsys.readouterr().err
