"""Artifacts are whole or not there: reuse, races, kills, damage and full disks."""

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from tasks.core import step as step_module
from tasks.core.artifacts import MANIFEST, Artifact, artifact_key
from tasks.core.errors import DataError, NotFound, ParamsError, StoreError
from tasks.core.params import SnapshotParams
from tasks.core.settings import settings
from tasks.core.step import NAMES, code_digest, execute, load, scratch
from tasks.core.store import LocalStore

RunStep = Callable[..., Artifact]


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    rng = np.random.default_rng(0)
    for name in ("a", "b"):
        (tmp_path / "data" / name).mkdir(parents=True)
        for number in range(4):
            picture = rng.integers(0, 255, (40, 40, 3), np.uint8)
            cv2.imwrite(str(tmp_path / "data" / name / f"{number}.png"), picture)
    return tmp_path / "data"


def snapshot(dataset: Path, store: LocalStore) -> step_module.Result:
    return execute("snapshot", {}, SnapshotParams.of({"dataset": str(dataset)}), store.uri)


def test_the_same_again_is_reused_and_a_change_is_not(dataset: Path, store: LocalStore) -> None:
    first, second = snapshot(dataset, store), snapshot(dataset, store)
    assert (first.reused, second.reused) == (False, True)
    assert first.artifact.key == second.artifact.key

    (dataset / "a" / "0.png").unlink()
    third = snapshot(dataset, store)
    assert not third.reused
    assert third.artifact.key != first.artifact.key


def test_the_manifest_tells_how_it_was_made(dataset: Path, store: LocalStore, run_step: RunStep) -> None:
    first = snapshot(dataset, store).artifact
    scan = run_step("scan", {"snapshot": first})
    manifest = json.loads(store.get(f"{scan.folder}/{MANIFEST}"))
    assert manifest["inputs"] == {"snapshot": first.key}
    assert manifest["params"] == {"max_megapixels": 100.0, "shard": 0, "shards": 1}
    assert manifest["made_by"]["numpy"] == np.__version__
    assert manifest["key"] == artifact_key(
        "scan", manifest["code"], manifest["params"], manifest["inputs"], manifest["observed"]
    )


def test_an_artifact_that_lost_a_file_is_made_again(dataset: Path, store: LocalStore) -> None:
    made = snapshot(dataset, store).artifact
    made.path("images.parquet").unlink()
    again = snapshot(dataset, store)
    assert not again.reused
    assert len(again.artifact.table("images.parquet")) == 8
    assert snapshot(dataset, store).reused


def test_a_changed_file_is_not_read(dataset: Path, store: LocalStore) -> None:
    made = snapshot(dataset, store).artifact
    path = made.path("snapshot.json")
    path.write_bytes(path.read_bytes().replace(b"8", b"9"))
    with pytest.raises(DataError, match=r"snapshot.json in .* was changed after its commit"):
        Artifact.open(made.uri).json("snapshot.json")


def test_racing_runs_end_with_one_artifact(dataset: Path, store: LocalStore) -> None:
    barrier = threading.Barrier(6)

    def run(_: int) -> step_module.Result:
        barrier.wait()
        return snapshot(dataset, store)

    with ThreadPoolExecutor(6) as pool:
        results = list(pool.map(run, range(6)))
    assert len({result.artifact.key for result in results}) == 1
    assert all(result.artifact.is_whole() for result in results)
    folder = store.root / results[0].artifact.folder
    assert len([path for path in folder.iterdir() if path.is_dir() and any(path.iterdir())]) == 1


def test_killed_while_it_commits_leaves_nothing_that_is_read(dataset: Path, store: LocalStore) -> None:
    child = os.fork()
    if child == 0:
        LocalStore.create = lambda *_: os.kill(os.getpid(), signal.SIGKILL)  # type: ignore[assignment,method-assign]
        snapshot(dataset, store)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    assert os.WTERMSIG(status) == signal.SIGKILL
    assert list(store.list("artifacts/snapshot/")), "the files were there"
    assert not [found for found in store.list() if found.key.endswith(MANIFEST)]

    result = snapshot(dataset, store)
    assert not result.reused
    assert result.artifact.is_whole()


def test_what_a_killed_process_left_is_swept() -> None:
    with scratch("alive") as alive:
        (alive / "file").write_bytes(b"x")
        code = "import os, signal; from tasks.core.step import scratch\nwith scratch('dead') as f:\n"
        code += " (f / 'big').write_bytes(b'x' * 1000); print(f, flush=True); os.kill(os.getpid(), signal.SIGKILL)"
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
        dead = Path(done.stdout.strip())
        assert (dead / "big").exists()
        with scratch("next"):
            assert not dead.exists()
            assert (alive / "file").exists(), "a living process's work is left alone"
    assert list((settings().scratch_folder / "work").iterdir()) == []


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of half a megabyte."""
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(disk)], check=False)
    if mounted.returncode:
        pytest.skip("needs the right to mount a file system")
    yield disk
    subprocess.run(["umount", "-l", str(disk)], check=True)


@pytest.mark.parametrize("what", ["scratch", "store"])
def test_a_full_disk_is_said_and_loses_nothing(
    dataset: Path, store: LocalStore, tiny_disk: Path, monkeypatch: pytest.MonkeyPatch, what: str
) -> None:
    with contextlib.suppress(OSError), (tiny_disk / "filler").open("wb", buffering=0) as filler:
        while True:
            filler.write(b"x" * 4096)
    monkeypatch.setenv(f"GESSO_{what.upper()}", str(tiny_disk))
    settings.cache_clear()
    target = LocalStore(tiny_disk) if what == "store" else store
    with pytest.raises(StoreError, match=r"disk.* is full"):
        snapshot(dataset, target)
    assert not [found for found in target.list() if found.key.endswith(MANIFEST)]

    (tiny_disk / "filler").unlink()
    assert snapshot(dataset, target).artifact.is_whole()


def test_what_a_failed_step_found_is_kept(dataset: Path, store: LocalStore, run_step: RunStep) -> None:
    for picture in (dataset / "b").iterdir():
        picture.write_bytes(b"not a picture")
    scan = run_step("scan", {"snapshot": snapshot(dataset, store).artifact})
    with pytest.raises(DataError, match=r"What it found is kept in .*failed/validate/") as failure:
        run_step("validate", {"scan": [scan]})
    assert "data_docs/index.html" in str(failure.value)
    assert any(found.key.endswith("data_docs/index.html") for found in store.list("failed/validate/"))
    assert not list(store.list("artifacts/validate/"))


@pytest.mark.parametrize(
    ("inputs", "error", "message"),
    [
        ({}, ParamsError, "'snapshot' is missing"),
        ({"snapshot": "/x/artifacts/scan/1", "eda": "/x"}, ParamsError, "'eda' is not one of its inputs"),
        ({"snapshot": "/nowhere/artifacts/snapshot/abc"}, NotFound, "There is no artifact at /nowhere"),
        ({"snapshot": "not-an-artifact"}, ParamsError, "is not an artifact's URI"),
        ({"snapshot": []}, ParamsError, "'snapshot' needs one artifact"),
    ],
)
def test_inputs_that_can_not_be_used(
    store: LocalStore, inputs: dict[str, str], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        execute("scan", inputs, load("scan").params(), store.uri)


def test_an_input_of_another_step(dataset: Path, store: LocalStore) -> None:
    made = snapshot(dataset, store).artifact
    with pytest.raises(ParamsError, match="was made by 'snapshot', not by 'scan'"):
        execute("validate", {"scan": made.uri}, load("validate").params(), store.uri)


def test_an_unknown_step() -> None:
    with pytest.raises(ParamsError, match="There is no step 'polish'"):
        load("polish")


def test_the_code_counts_and_comments_do_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = tmp_path / "tasks"
    subprocess.run(["cp", "-r", str(step_module.ROOT), str(root)], check=True)
    monkeypatch.setattr(step_module, "ROOT", root)
    features = root / "vision" / "features.py"
    code = features.read_text()

    def digests() -> dict[str, str]:
        code_digest.cache_clear()
        return {name: code_digest(name) for name in NAMES}

    before = digests()
    features.write_text("# a comment\n\n\n" + code)
    assert digests() == before
    features.write_text(code + "\nSPARE = 1\n")
    after = digests()
    assert after["scan"] != before["scan"], "a changed helper counts"
    assert after["snapshot"] == before["snapshot"]
    code_digest.cache_clear()
