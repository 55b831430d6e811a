"""The images in use, packed at one size: whole, in shards, and with what the last run packed."""

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pandas as pd
import pytest

from tasks import pack
from tasks.core.artifacts import Artifact
from tasks.core.errors import DataError, ParamsError
from tasks.core.settings import settings
from tasks.core.step import execute, load
from tasks.core.store import LocalStore, Store, open_store
from tasks.vision.images import open_image, resize
from tasks.vision.pack import open_pack
from tests.tasks.artifacts_by_hand import committed, output

IMAGES = 40
RunStep = Callable[..., Artifact]
Make = Callable[..., dict[str, Artifact]]


@pytest.fixture
def make(store: LocalStore, tmp_path: Path) -> Make:
    """The inputs of `pack`: the images of a data set from `first` up to a number."""
    folder = tmp_path / "by-hand"
    folder.mkdir()

    def made(images: int = IMAGES, dataset: str = "", first: int = 0, store: Store = store) -> dict[str, Artifact]:
        files, rows = open_store(dataset or str(tmp_path / "data")), []
        for number in range(first, images):
            picture = cv2.resize(np.random.default_rng(number).integers(0, 255, (5, 5, 3), np.uint8), (48, 40))
            data = cv2.imencode(".png", picture)[1].tobytes()
            files.put(f"a/{number:03} 한.png", data)
            rows.append({"key": f"a/{number:03} 한.png", "sha256": hashlib.sha256(data).hexdigest()})
        used = pd.DataFrame(rows).assign(row=range(images - first), width=48, height=40)
        used["modified"] = pd.Timestamp("2022-08-01", tz="UTC") - pd.to_timedelta(
            used["row"] + first, "h"
        )  # the last is oldest
        listed = files.list_as_of("", datetime.max.replace(tzinfo=UTC)) or files.list()
        used["version"] = used["key"].map({found.key: found.version for found in listed})
        out = output(folder, store, "snapshot")
        out.json("snapshot.json", {"dataset": files.uri})
        snapshot = committed(out, "snapshot")
        out = output(folder, store, "resample")
        out.table("used.parquet", used)
        return {"snapshot": snapshot, "resample": committed(out, "resample", {"snapshot": snapshot.key})}

    return made


def packed(run_step: RunStep, given: dict[str, Artifact], shards: int = 1, size: int = 32) -> list[Artifact]:
    return [run_step("pack", given, image_size=size, shard=shard, shards=shards) for shard in range(shards)]


def pixels(given: dict[str, Artifact], packs: list[Artifact]) -> np.ndarray:
    opened = open_pack(given["resample"], packs)
    return opened.gather(np.arange(len(opened)))


def contents(artifact: Artifact) -> dict[str, bytes]:
    return {name: artifact.path(name).read_bytes() for name in artifact.names()}


def test_each_image_is_packed_as_the_resized_picture(make: Make, run_step: RunStep, tmp_path: Path) -> None:
    given = make()
    (made,) = packed(run_step, given)
    assert made.metrics == {"images": IMAGES, "copied": 0}
    found = pixels(given, [made])
    assert (found.dtype, found.shape) == (np.uint8, (IMAGES, 32, 32, 3))
    for key, picture in zip(given["resample"].table("used.parquet")["key"], found, strict=True):
        data = (tmp_path / "data" / key).read_bytes()
        np.testing.assert_array_equal(picture, resize(open_image(data, max_pixels=10**6, min_side=32).pixels, 32))


@pytest.mark.parametrize("shards", [3, 7])
def test_the_pack_does_not_depend_on_the_number_of_shards(make: Make, run_step: RunStep, shards: int) -> None:
    given = make()
    whole, parts = packed(run_step, given), packed(run_step, given, shards)
    assert all(part.metrics["images"] for part in parts)
    np.testing.assert_array_equal(pixels(given, parts), pixels(given, whole))
    tables = pd.concat(part.table("rows.parquet", ["row", "sha256"]) for part in parts)
    assert tables.sort_values("row", ignore_index=True).equals(whole[0].table("rows.parquet", ["row", "sha256"]))
    np.testing.assert_array_equal(pixels(given, parts[::-1]), pixels(given, whole))


def test_a_shard_may_be_empty(make: Make, run_step: RunStep) -> None:
    given = make(2)
    parts = packed(run_step, given, 7)
    assert {part.metrics["images"] for part in parts} >= {0, 1}
    np.testing.assert_array_equal(pixels(given, parts), pixels(given, packed(run_step, given)))


def test_files_hold_all_images_once_and_none_is_larger_than_it_may_be() -> None:
    digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in range(10_000)]
    files = pack.divided(digests, 50)
    assert [image for file in files for image in digests[file]] == digests
    sizes = [file.stop - file.start for file in files]
    assert 40 < np.mean(sizes) < 60
    assert 0 < min(sizes) < max(sizes) == 50 * pack.LONGEST
    assert pack.divided([], 50) == []
    assert len(pack.divided(["0" * 64] * 5, 50)) == 5


@pytest.mark.parametrize("at", [0, 5_000, 9_999])
def test_an_image_that_goes_changes_no_other_file(at: int) -> None:
    def files(numbers: list[int]) -> set[tuple[str, ...]]:
        digests = [hashlib.sha256(str(number).encode()).hexdigest() for number in numbers]
        return {tuple(digests[file]) for file in pack.divided(digests, 50)}

    numbers = list(range(10_000))
    assert len(files(numbers) - files(numbers[:at] + numbers[at + 1 :])) <= 2  # two where a file ended there


@pytest.fixture
def small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Some four images of 32 pixels a file."""
    monkeypatch.setattr(pack, "FILE_BYTES", 4 * 32 * 32 * 3)


def test_files_of_the_same_images_are_shared_with_the_last_pack(
    make: Make, run_step: RunStep, store: LocalStore, small_files: None
) -> None:
    (first,) = packed(run_step, make(IMAGES, first=3))
    given = make()  # three images that are younger than all others
    (second,) = packed(run_step, given)
    held = {facts["sha256"]: name for name, facts in first.manifest["files"].items()}
    shared = {name for name, facts in second.manifest["files"].items() if facts["sha256"] in held}
    assert len(shared) >= 8
    assert second.metrics == {"images": IMAGES, "copied": IMAGES - 3}
    for name in shared:
        assert second.path(name).samefile(first.path(held[second.manifest["files"][name]["sha256"]]))

    wanted = contents(second), pixels(given, [second])
    for name in first.names():  # as `gesso gc` does it
        store.delete(first.key_of(name))
    assert contents(second) == wanted[0]
    for found in [*store.list("remembered/"), *store.list("artifacts/pack/")]:
        store.delete(found.key)
    (anew,) = packed(run_step, given)
    assert (contents(anew), anew.metrics["copied"]) == (wanted[0], 0)
    np.testing.assert_array_equal(pixels(given, [anew]), wanted[1])


def test_a_file_that_was_damaged_is_not_shared(
    make: Make, run_step: RunStep, store: LocalStore, small_files: None
) -> None:
    (first,) = packed(run_step, make(IMAGES, first=3))
    whole = contents(first)["001.npy"]
    first.path("001.npy").write_bytes(whole[:-3] + b"abc")
    given = make()
    (second,) = packed(run_step, given)
    assert IMAGES - 3 - 4 * pack.LONGEST <= int(second.metrics["copied"] or 0) < IMAGES - 3
    assert whole in contents(second).values()
    assert contents(second)


def test_a_last_pack_that_lost_a_file_is_not_used(
    make: Make, run_step: RunStep, store: LocalStore, small_files: None
) -> None:
    (first,) = packed(run_step, make(IMAGES, first=3))
    store.delete(first.key_of("001.npy"))
    given = make()
    (second,) = packed(run_step, given)
    assert second.metrics["copied"] == 0
    assert len(pixels(given, [second])) == IMAGES


def test_what_is_shared_is_never_fetched(make: Make, any_store: Store, small_files: None) -> None:
    def run(name: str, inputs: dict[str, Artifact], **params: Any) -> Artifact:
        uris = {given: artifact.uri for given, artifact in inputs.items()}
        return execute(name, uris, load(name).params.of(params), any_store.uri).artifact

    (first,) = packed(run, make(IMAGES, first=3, store=any_store))
    given = make(store=any_store)
    (second,) = packed(run, given)
    digests = [{facts["sha256"] for facts in made.manifest["files"].values()} for made in (first, second)]
    fetched = {path.stem for path in (settings().scratch_folder / "copies").glob("*.npy")}
    assert len(digests[0] & digests[1] - fetched) >= 8
    for name in first.names():
        any_store.delete(first.key_of(name))
    assert pixels(given, [second]).shape == (IMAGES, 32, 32, 3)


@pytest.mark.parametrize(("before", "after"), [(1, 1), (4, 4), (2, 4), (4, 2)])
def test_what_the_last_run_packed_is_copied_and_is_the_same(
    make: Make, run_step: RunStep, tmp_path: Path, store: LocalStore, before: int, after: int
) -> None:
    wanted = pixels(given := make(), packed(run_step, given, after, size=48))
    for found in list(store.list("remembered/")) + list(store.list("artifacts/pack/")):
        store.delete(found.key)
    packed(run_step, make(IMAGES - 3), before, size=48)
    for picture in sorted((tmp_path / "data").rglob("*.png"))[: IMAGES - 3]:
        picture.write_bytes(b"not read any more")
    parts = packed(run_step, given, after, size=48)
    assert sum(int(part.metrics["copied"] or 0) for part in parts) == IMAGES - 3
    np.testing.assert_array_equal(pixels(given, parts), wanted)


def test_another_size_is_packed_anew(make: Make, run_step: RunStep) -> None:
    packed(run_step, make())
    assert packed(run_step, make(), size=48)[0].metrics["copied"] == 0


@pytest.mark.parametrize("damage", ["pixels", "note", "artifact"])
def test_a_damaged_last_pack_is_not_used(make: Make, run_step: RunStep, store: LocalStore, damage: str) -> None:
    (first,) = packed(run_step, make())
    wanted = contents(first)
    if damage == "pixels":
        file = first.path("000.npy")
        file.write_bytes(file.read_bytes()[:-3] + b"abc")
    elif damage == "note":
        for found in list(store.list("remembered/pack/")):
            store.put(found.key, b"\xff no key")
    else:
        store.put(f"{first.folder}/artifact.json", b"{")
    assert packed(run_step, make(IMAGES - 1))[0].metrics["copied"] == 0
    store.delete(f"{first.folder}/artifact.json")
    assert contents(packed(run_step, make())[0]) == wanted


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda path: path.unlink(), "was removed since the snapshot. Run again"),
        (lambda path: path.write_bytes(b"other"), "was changed since the snapshot: its bytes are not those that were"),
    ],
    ids=["removed", "changed"],
)
def test_an_image_that_is_not_what_was_scanned(
    make: Make, run_step: RunStep, tmp_path: Path, change: Callable[[Path], object], said: str
) -> None:
    given = make()
    change(tmp_path / "data" / "a/003 한.png")
    with pytest.raises(DataError, match=f"'a/003 한.png' {said}"):
        packed(run_step, given)


def test_images_are_read_from_a_bucket_as_they_were(make: Make, run_step: RunStep, s3_versioned: str) -> None:
    given = make(6, dataset=s3_versioned)
    bucket = open_store(s3_versioned)
    bucket.put("a/002 한.png", b"overwritten since")
    bucket.delete("a/004 한.png")
    assert packed(run_step, given)[0].metrics["images"] == 6


def test_packs_that_are_not_what_is_used_are_refused(make: Make, run_step: RunStep) -> None:
    given, other = make(), make(IMAGES - 1)
    parts = packed(run_step, given, 3)
    held = [int(part.metrics["images"] or 0) for part in parts]
    with pytest.raises(DataError, match=f"hold {held[0] + held[2]} of the 40 images that .* uses, and 0 of them again"):
        open_pack(given["resample"], [parts[0], parts[2]])
    with pytest.raises(DataError, match=f"hold 40 of the 40 images .* {held[1]} of them again. Give the artifact of"):
        open_pack(given["resample"], [*parts, parts[1]])
    with pytest.raises(ParamsError, match="holds the pixels of another `resample` artifact than"):
        open_pack(other["resample"], parts)
