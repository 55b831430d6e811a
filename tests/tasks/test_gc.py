"""Garbage collection: what a run may still need stays, whatever goes on at the same time; the rest goes."""

import json
import os
import random
import threading
import time
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path

import cv2
import numpy as np
import pytest

from tasks import gc
from tasks.core import use
from tasks.core.artifacts import MANIFEST, Artifact, Output
from tasks.core.checkpoint import Checkpoint
from tasks.core.errors import DataError, NotFound, ParamsError, StoreError
from tasks.core.objects import temporary_name
from tasks.core.runs import change_record
from tasks.core.step import Result, code_digest, commit, execute, load
from tasks.core.store import LocalStore, S3Store, Store, open_store

Make = Callable[..., Artifact]


@pytest.fixture
def make(request: pytest.FixtureRequest, tmp_path: Path) -> Make:
    """Commits an artifact of two files to the test's store: make("scan", snapshot=snapshot)."""
    names = {"any_store", "atomic_store"} & set(request.fixturenames)
    any_store: Store = request.getfixturevalue(names.pop())

    def commit_one(step: str, **inputs: Artifact | list[Artifact]) -> Artifact:
        folder = tmp_path / uuid.uuid4().hex
        out = Output(folder, any_store, Checkpoint(any_store, step))
        out.text("a.txt", "content")
        out.text("folder/b.txt", folder.name)
        keys = {
            name: value.key if isinstance(value, Artifact) else [each.key for each in value]
            for name, value in inputs.items()
        }
        manifest = {
            "step": step, "key": folder.name, "params": {}, "inputs": keys, "observed": None, "code": "0",
            "metrics": {}, "seconds": 1.0, "made_at": datetime.now(UTC).isoformat(timespec="seconds"), "made_by": {},
        }  # fmt: skip
        return commit(any_store, manifest, out)

    return commit_one


@pytest.fixture
def note_always(monkeypatch: pytest.MonkeyPatch) -> None:
    """Here a day passes in a second."""
    monkeypatch.setattr(use, "FRESH", timedelta(0))


def an_instant() -> datetime:
    """An instant that stores can tell from the ones before and after: some keep whole seconds."""
    time.sleep(1.1)
    now = datetime.now(UTC)
    time.sleep(1.1)
    return now


def age(store: Store, days: int = 40) -> None:
    """Make everything in a folder so old."""
    then = datetime.now(UTC) - timedelta(days=days)
    assert isinstance(store, LocalStore)
    for path in [path for path in store.root.rglob("*") if path.is_file()]:
        if path.name == MANIFEST:
            path.write_text(json.dumps(json.loads(path.read_text()) | {"made_at": then.isoformat()}))
        os.utime(path, (then.timestamp(), then.timestamp()))


def record(store: Store, run: str, *artifacts: Artifact) -> None:
    entries = {artifact.step: [{"artifact": artifact.uri}] for artifact in artifacts}
    change_record(store, "retrain", run, lambda found: found["steps"].update(entries))


def addresses(*artifacts: Artifact) -> set[tuple[str, str]]:
    return {(artifact.step, artifact.key) for artifact in artifacts}


def keys(store: Store) -> set[str]:
    return {found.key for found in store.list()}


def test_what_a_record_a_champion_or_a_young_artifact_was_made_of_stays(any_store: Store, make: Make) -> None:
    snapshot, unused = make("snapshot"), make("snapshot")
    shards = [make("scan", snapshot=snapshot), make("scan", snapshot=snapshot)]
    report = make("report", scan=shards, train=make("train"))
    model, before, lost = make("train"), make("train"), make("train", snapshot=unused)
    base = make("snapshot")
    record(any_store, "manual__1", report)
    pointer = {"model": model.uri, "previous": before.uri, "since": ""}
    any_store.put("champions/pictures-1.json", json.dumps(pointer).encode())
    instant = an_instant()
    young = make("scan", snapshot=base)

    garbage = gc.find(any_store, instant)
    assert set(garbage.artifacts) == addresses(lost, unused)
    assert {kind: count for kind, (count, _) in garbage.kinds().items() if count} == {"artifacts": 2}
    there = keys(any_store)
    gone = there - (gc.remove(any_store, garbage) and keys(any_store))
    assert gone == {f"{one.folder}/{name}" for one in (lost, unused) for name in files_of(one)}
    for artifact in (snapshot, *shards, report, model, before, base, young):
        assert Artifact.open(artifact.uri).is_whole()
    with pytest.raises(NotFound, match="has not finished, or it was removed"):
        Artifact.open(lost.uri)
    assert gc.find(any_store, instant).artifacts == {}


def files_of(artifact: Artifact) -> list[str]:
    return [facts["path"] for facts in artifact.manifest["files"].values()]


def test_what_never_became_an_artifact_goes_when_it_is_old(any_store: Store, make: Make) -> None:
    kept = make("snapshot")
    record(any_store, "manual__1", kept)
    old = [
        f"{kept.folder}/0000aaaa/a.txt",
        "artifacts/train/without/0000aaaa/model.keras",
        "failed/validate/key/data_docs/index.html",
        "checkpoints/train/key",
        "remembered/scan/x/y.parquet",
        "remembered/scan/x/data/0-of-1-y.parquet",
    ]
    code = code_digest("scan")
    used = [f"remembered/scan/{code}/data/0-of-1-y.parquet", "remembered/scan/other/data/0-of-1-y.parquet"]
    any_store.put_many((key, b"12345") for key in [*old, *used, "artifacts/loose", "notes.txt"])
    instant = an_instant()
    any_store.put_many((f"{key}.young", b"1") for key in old if not key.startswith("remembered/"))
    any_store.put("remembered/scan/other/data/0-of-1-young.parquet", b"12345")
    before = keys(any_store)

    garbage = gc.find(any_store, instant)
    assert {kind: count for kind, (count, _) in garbage.kinds().items() if count} == {
        "files of no artifact": 2,
        "files of failed steps": 1,
        "checkpoints": 1,
        "rows of other code": 2,
    }
    gc.remove(any_store, garbage)
    assert before - keys(any_store) == set(old)


def test_temporary_files_of_killed_writers_go(any_store: Store) -> None:
    names = [temporary_name(), temporary_name()]
    if isinstance(any_store, LocalStore):
        names[1] = f"runs/retrain/{names[1]}"
    any_store.put_many((name, b"12345") for name in names)
    any_store.put("runs/.hidden.tmp", b"a person's")
    instant = an_instant()
    assert keys(any_store) == {"runs/.hidden.tmp"}
    garbage = gc.find(any_store, instant)
    assert {found.key for found in garbage.leftovers} == set(names)
    gc.remove(any_store, garbage)
    assert list(any_store.leftovers()) == []
    assert keys(any_store) == {"runs/.hidden.tmp"}


@pytest.mark.parametrize("server", ["moto", pytest.param("real", marks=pytest.mark.s3)])
def test_uploads_that_never_ended_are_aborted(server: str, s3: str) -> None:
    store, other = open_store(f"{s3}/store"), open_store(f"{s3}/store-of-another")
    assert isinstance(store, S3Store)
    assert isinstance(other, S3Store)
    for each in (store, other):
        name = {"Bucket": each.bucket, "Key": f"{each.prefix}artifacts/train/key/attempt/model.keras"}
        upload = each.client.create_multipart_upload(**name)
        each.client.upload_part(**name, UploadId=upload["UploadId"], PartNumber=1, Body=b"x" * 5000)
    garbage = gc.find(store, datetime.now(UTC) + timedelta(minutes=1))
    assert [(found.key, found.size) for found in garbage.leftovers] == [
        ("artifacts/train/key/attempt/model.keras", 5000)
    ]
    gc.remove(store, garbage)
    gc.remove(store, garbage)
    assert list(store.leftovers()) == []
    assert len(list(other.leftovers())) == 1


def test_an_artifact_in_use_is_not_taken_away(any_store: Store, make: Make, note_always: None) -> None:
    """A run takes up an old artifact after gc has looked and before it removes."""
    snapshot = make("snapshot")
    scan, other = make("scan", snapshot=snapshot), make("scan", snapshot=snapshot)
    later = datetime.now(UTC) + timedelta(minutes=1)
    garbage = gc.find(any_store, later)
    assert set(garbage.artifacts) == addresses(snapshot, scan, other)
    time.sleep(1.1)
    assert use.hold(scan)
    removed = gc.remove(any_store, garbage)
    assert set(removed.artifacts) == addresses(other)
    assert scan.is_whole()
    assert snapshot.is_whole(), "what it was made of stays with it"
    assert use.last_used(Artifact.open(scan.uri).manifest) > use.last_used(scan.manifest)


def test_a_run_that_comes_too_late_knows(any_store: Store, make: Make, note_always: None) -> None:
    artifact = make("snapshot")
    time.sleep(1.1)
    gc.remove(any_store, gc.find(any_store, datetime.now(UTC) + timedelta(minutes=1)))
    assert not use.hold(artifact)
    with pytest.raises((DataError, NotFound), match=r"missing|no such|no artifact"):
        artifact.json("a.txt")


def test_an_artifact_made_anew_meanwhile_is_seen_as_it_is(any_store: Store, make: Make, note_always: None) -> None:
    stale = make("snapshot")
    fresh = stale.manifest | {"files": {}, "made_at": datetime.now(UTC).isoformat()}
    any_store.put(f"{stale.folder}/{MANIFEST}", json.dumps(fresh).encode())
    assert use.hold(stale)
    assert stale.manifest["files"] == {}


def test_of_a_run_and_gc_one_wins(atomic_store: Store, make: Make, note_always: None) -> None:
    for _ in range(15):
        artifact = make("snapshot")
        garbage = gc.find(atomic_store, datetime.now(UTC) + timedelta(minutes=1))
        artifact.manifest["made_at"] = "2022-01-01T00:00:00+00:00"
        barrier = threading.Barrier(4)

        def hold(artifact: Artifact = artifact, barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            return use.hold(artifact)

        def remove(garbage: gc.Garbage = garbage, barrier: threading.Barrier = barrier) -> int:
            barrier.wait()
            return len(gc.remove(atomic_store, garbage).artifacts)

        with ThreadPoolExecutor(4) as pool:
            held = [pool.submit(hold), pool.submit(hold)]
            removed = [pool.submit(remove), pool.submit(remove)]
        assert held[0].result() == held[1].result()
        assert sum(each.result() for each in removed) == (not held[0].result())
        assert artifact.is_whole() == held[0].result()
        gc.remove(atomic_store, gc.find(atomic_store, datetime.now(UTC) + timedelta(minutes=1)))


def test_a_young_artifact_is_not_noted_over_and_over(any_store: Store, make: Make) -> None:
    artifact = make("snapshot")
    before = any_store.get_with_etag(f"{artifact.folder}/{MANIFEST}")
    assert use.hold(artifact)
    assert any_store.get_with_etag(f"{artifact.folder}/{MANIFEST}") == before


def test_two_at_once_remove_each_thing_once(atomic_store: Store, make: Make) -> None:
    made = [make("snapshot") for _ in range(12)]
    later = datetime.now(UTC) + timedelta(minutes=1)
    barrier = threading.Barrier(2)

    def collect(_: int) -> gc.Garbage:
        garbage = gc.find(atomic_store, later)
        barrier.wait()
        return gc.remove(atomic_store, garbage)

    with ThreadPoolExecutor(2) as pool:
        first, second = pool.map(collect, range(2))
    assert set(first.artifacts) | set(second.artifacts) == addresses(*made)
    assert not set(first.artifacts) & set(second.artifacts)
    assert keys(atomic_store) - {".lock"} == {f"{artifact.folder}/{MANIFEST}" for artifact in made}


def test_one_that_is_killed_is_finished_by_the_next(
    any_store: Store, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = [make("snapshot") for _ in range(3)]
    later = datetime.now(UTC) + timedelta(minutes=1)

    def killed(keys: object) -> None:
        raise StoreError("killed")

    garbage = gc.find(any_store, later)
    with monkeypatch.context() as patch:
        patch.setattr(any_store, "delete_many", killed)
        with pytest.raises(StoreError, match="killed"):
            gc.remove(any_store, garbage)
    garbage = gc.find(any_store, later)
    assert (len(garbage.artifacts), len(garbage.orphans)) == (0, 2 * len(made))
    gc.remove(any_store, garbage)
    assert keys(any_store) - {".lock"} == {f"{artifact.folder}/{MANIFEST}" for artifact in made}
    assert gc.find(any_store, later) == gc.Garbage()


def test_beside_runs_no_run_is_hurt(atomic_store: Store, tmp_path: Path, note_always: None) -> None:
    """Runs that reuse one old artifact over and over while gc takes it away as soon as it is three seconds old."""
    store_uri = atomic_store.uri
    data = draw(tmp_path / "data")
    params = load("snapshot").params.of({"dataset": str(data)})
    over = threading.Event()
    removed: list[int] = []

    def collect() -> None:
        store = open_store(store_uri)
        while not over.is_set():
            garbage = gc.find(store, datetime.now(UTC) - timedelta(seconds=3))
            removed.append(len(gc.remove(store, garbage).artifacts))

    def run(pauses: random.Random) -> list[bool]:
        reused = []
        until = time.monotonic() + 10
        while time.monotonic() < until:
            result: Result = execute("snapshot", {}, params, store_uri)
            for _ in range(5):  # the run goes on, younger than gc's three seconds
                assert Artifact.open(result.artifact.uri).is_whole()
                time.sleep(0.1)
            reused.append(result.reused)
            time.sleep(pauses.choice((0, 1, 2, 2.5, 3, 3.5, 4.5)))
        return reused

    with ThreadPoolExecutor(4) as pool:
        collectors = [pool.submit(collect) for _ in range(2)]
        try:
            runs = [each.result() for each in [pool.submit(run, random.Random(seed)) for seed in range(2)]]
        finally:
            over.set()
        for collector in collectors:
            collector.result()
    assert any(reused for results in runs for reused in results)
    assert sum(removed) > 0


def draw(folder: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (folder / name).mkdir(parents=True)
        for number in range(4):
            cv2.imwrite(str(folder / name / f"{number}.png"), rng.integers(0, 255, (40, 40, 3), np.uint8))
    return folder


def test_a_step_that_reuses_an_old_artifact_keeps_it(home: Path, tmp_path: Path) -> None:
    """The race itself: gc has looked, a step reuses the artifact, no record names it yet, gc goes on."""
    store, data = open_store(home / "store"), draw(tmp_path / "data")
    snapshot_params = load("snapshot").params.of({"dataset": str(data)})
    first = execute("snapshot", {}, snapshot_params, store.uri).artifact
    scan = execute("scan", {"snapshot": first.uri}, load("scan").params.of({}), store.uri).artifact
    age(store)
    garbage = gc.find(store, datetime.now(UTC) - timedelta(days=30))
    assert set(garbage.artifacts) == addresses(first, scan)

    again = execute("snapshot", {}, snapshot_params, store.uri)
    assert again.reused
    removed = gc.remove(store, garbage)
    assert set(removed.artifacts) == addresses(scan)
    assert again.artifact.is_whole()
    assert not execute("scan", {"snapshot": first.uri}, load("scan").params.of({}), store.uri).reused


def test_an_input_named_by_hand_is_in_use(home: Path, tmp_path: Path) -> None:
    store, data = open_store(home / "store"), draw(tmp_path / "data")
    first = execute("snapshot", {}, load("snapshot").params.of({"dataset": str(data)}), store.uri).artifact
    age(store)
    garbage = gc.find(store, datetime.now(UTC) - timedelta(days=30))
    scan = execute("scan", {"snapshot": first.uri}, load("scan").params.of({}), store.uri).artifact
    assert gc.remove(store, garbage).artifacts == {}
    assert Artifact.open(scan.uri).is_whole()
    assert Artifact.open(first.uri).is_whole()


@pytest.mark.parametrize("what", ["runs/retrain/1.json", "champions/x.json", MANIFEST])
@pytest.mark.parametrize("content", [b"{", b"\xff\xfe", b""])
def test_where_a_record_can_not_be_read_nothing_goes(home: Path, what: str, content: bytes) -> None:
    store = open_store(home / "store")
    key = f"artifacts/train/key/{what}" if what == MANIFEST else what
    store.put(key, content)
    store.put("failed/a", b"")
    age_all(store)
    with pytest.raises(DataError, match=f"{key} can't be read .* nothing was removed"):
        gc.main(["--delete"])
    assert keys(store) == {key, "failed/a"}


@pytest.mark.parametrize("days", ["1000000", "10000000000"])
def test_days_before_all_years_are_refused(home: Path, days: str) -> None:
    with pytest.raises(ParamsError, match=f"--days {days}: expected fewer"):
        gc.main(["--days", days])


def age_all(store: Store) -> None:
    assert isinstance(store, LocalStore)
    for path in store.root.rglob("*"):
        os.utime(path, (0, 0))


def test_the_command_line(home: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = open_store(home / "store")
    result = execute("snapshot", {}, load("snapshot").params.of({"dataset": str(draw(tmp_path / "data"))}), store.uri)
    store.put("failed/scan/key/\x1b[31mtable.csv", b"1234")
    age(store)
    store.put("failed/scan/key/young", b"1")
    there = keys(store)
    size = sum(found.size for found in store.list("artifacts/"))

    capsys.readouterr()
    assert gc.main([]) == 0
    printed = capsys.readouterr()
    assert keys(store) == there
    lines = [line.split() for line in printed.out.splitlines()]
    assert lines[0] == ["what", "how", "many", "bytes"]
    size -= next(found.size for found in store.list(f"{result.artifact.folder}/{MANIFEST}"))
    assert lines[1] == ["artifacts", "1", f"{size:,}"]
    assert lines[3] == ["files", "of", "failed", "steps", "1", "4"]
    assert lines[-1] == ["all", "2", f"{size + 4:,}"]
    assert "Nothing was removed. --delete would" in printed.err

    assert gc.main(["--days", "50", "--delete"]) == 0
    assert keys(store) == there
    assert gc.main(["--verbose", "--delete"]) == 0
    printed = capsys.readouterr()
    assert r"files of failed steps: failed/scan/key/\x1b[31mtable.csv" in printed.out
    assert all(f"artifacts: {result.artifact.folder}/{path}" in printed.out for path in files_of(result.artifact))
    assert keys(store) == {"failed/scan/key/young", ".lock", f"{result.artifact.folder}/{MANIFEST}"}
    folders = [path.name for path in (home / "store").rglob("*") if path.is_dir()]
    assert sorted(folders) == sorted(["artifacts", "snapshot", result.artifact.key, "failed", "scan", "key"])


def test_options_that_can_not_be_used(home: Path) -> None:
    with pytest.raises(ParamsError, match="--days 0: expected 1 or more"):
        gc.main(["--days", "0"])
    with pytest.raises(NotFound, match="There is no store at"):
        gc.main([])
