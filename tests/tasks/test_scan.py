"""Every image is looked at once, whatever it is, and remembered."""

import io
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import PIL.Image
import pyarrow as pa
import pytest

from tasks import scan
from tasks.core.artifacts import Artifact
from tasks.core.errors import StoreError
from tasks.core.settings import settings
from tasks.core.store import LocalStore, S3Store, open_store
from tasks.vision import look
from tasks.vision.features import FEATURE_NAMES, describe
from tasks.vision.images import open_image

RunStep = Callable[..., Artifact]
TABLES = ("scan.parquet", "features.parquet", "thumbnails.parquet")


def encode(pixels: np.ndarray, kind: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def noise(seed: int, height: int = 40, width: int = 60) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 255, (height, width, 3), dtype=np.uint8)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, data in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return folder


GOOD = {f"{'ab'[number % 2]}/그림 {number}.png": encode(noise(number)) for number in range(10)}
BAD = {"a/empty.jpg": b"", "b/text.jpg": b"hello world", "b/cut.png": GOOD["b/그림 1.png"][:-20]}
SCRIPT = {'"><img src=x onerror=alert(1)>/=1+1.png': encode(noise(99))}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write(tmp_path / "data", GOOD | BAD | SCRIPT)


@pytest.fixture
def snapshot(run_step: RunStep, data: Path) -> Artifact:
    return run_step("snapshot", dataset=str(data))


def contents(artifact: Artifact) -> list[bytes]:
    return [artifact.path(name).read_bytes() for name in TABLES]


def test_every_image_has_a_row_and_every_readable_one_features_and_a_thumbnail(
    run_step: RunStep, snapshot: Artifact
) -> None:
    made = run_step("scan", {"snapshot": snapshot})
    table = made.table("scan.parquet")
    listed = snapshot.table("images.parquet")
    assert list(table.columns) == [*listed.columns, *scan.COLUMNS]
    assert table[listed.columns].equals(listed)
    errors = dict(zip(table["key"], table["error"], strict=True))
    assert {key: error for key, error in errors.items() if error} == {
        "a/empty.jpg": "0 bytes",
        "b/text.jpg": "not an image (starts with 'hello wor')",
        "b/cut.png": "truncated PNG",
    }
    readable = table[table["status"] == "ok"].reset_index(drop=True)
    assert set(table[table["status"] != "ok"]["status"]) == {"unreadable"}
    features, thumbnails = made.table("features.parquet"), made.table("thumbnails.parquet")
    assert list(features.columns) == ["key", *FEATURE_NAMES]
    assert set(features.dtypes[list(FEATURE_NAMES)]) == {np.dtype(np.float32)}
    assert list(features["key"]) == list(thumbnails["key"]) == list(readable["key"])
    assert made.metrics == {"images": 14, "unreadable": 3, "decoded": 14, "remembered": 0}


def test_a_row_says_what_the_picture_is(run_step: RunStep, tmp_path: Path) -> None:
    red, exif = np.full((300, 200, 3), (255, 0, 0), np.uint8), PIL.Image.Exif()
    exif[0x0112] = 6
    clear = np.zeros((20, 30, 4), np.uint8)
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::4] = 255
    files = {
        "a/turned.jpg": encode(red, "JPEG", quality=95, exif=exif),
        "a/clear.jpg": encode(clear),  # a PNG by its content
        "b/stripes.png": encode(stripes),
        "b/grey.bmp": encode(np.full((50, 50), 51, np.uint8), "BMP"),
    }
    made = run_step("scan", {"snapshot": run_step("snapshot", dataset=str(write(tmp_path / "data", files)))})
    rows = made.table("scan.parquet").set_index("key")
    turned, clear_row = rows.loc["a/turned.jpg"], rows.loc["a/clear.jpg"]
    assert (turned["width"], turned["height"], turned["orientation"]) == (300, 200, 6)
    assert (turned["format"], turned["mode"], turned["frames"]) == ("jpeg", "RGB", 1)
    assert turned["brightness"] == pytest.approx(76, abs=1.5)
    assert min(turned["hue"], 360 - turned["hue"]) < 2
    assert turned["lightness"] == pytest.approx(0.5, abs=0.01)
    assert turned["saturation"] == pytest.approx(1, abs=0.02)
    assert (clear_row["format"], clear_row["mode"], clear_row["has_alpha"]) == ("png", "RGBA", True)
    assert (clear_row["brightness"], clear_row["note"]) == (255, "alpha on white")
    assert rows.loc["b/grey.bmp", "brightness"] == 51
    assert rows.loc["b/grey.bmp", "sharpness"] == 0 < rows.loc["b/stripes.png", "sharpness"]
    thumbnail = open_image(made.table("thumbnails.parquet")["jpeg"][1], max_pixels=10**6)
    assert (thumbnail.width, thumbnail.height) == (128, 85)
    assert np.abs(thumbnail.pixels[30, 30].astype(int) - (255, 0, 0)).max() < 8


@pytest.mark.parametrize(
    ("rgb", "hue"),
    [((255, 0, 0), 0), ((255, 255, 0), 60), ((0, 255, 0), 120), ((0, 0, 255), 240), ((90, 90, 90), 0)],
    ids=["red", "yellow", "green", "blue", "grey"],
)
def test_mean_hue_is_in_degrees(rgb: tuple[int, int, int], hue: float) -> None:
    assert look.mean_colour(describe(np.full((8, 8, 3), rgb, np.uint8)))[0] == pytest.approx(hue, abs=1)


def test_mean_hue_is_circular_and_heeds_no_grey() -> None:
    pixels = np.full((8, 8, 3), 128, np.uint8)
    pixels[0, 0], pixels[0, 1] = (255, 0, 64), (255, 64, 0)  # on both sides of 0 degrees
    hue, _, _ = look.mean_colour(describe(pixels))
    assert min(hue, 360 - hue) < 2


def forget(store: LocalStore, prefix: str) -> None:
    for found in list(store.list(prefix)):
        store.delete(found.key)


@pytest.mark.parametrize("workers", ["1", "8"])
@pytest.mark.parametrize("known", [2, 9, 14])
def test_tables_do_not_depend_on_threads_or_on_what_is_remembered(
    run_step: RunStep, store: LocalStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, known: int, workers: str
) -> None:
    files = list((GOOD | BAD | SCRIPT).items())
    data = write(tmp_path / "data", dict(files[:known]))
    first = run_step("scan", {"snapshot": run_step("snapshot", dataset=str(data))})
    assert first.metrics["decoded"] == known
    write(data, dict(files[known:]))
    snapshot = run_step("snapshot", dataset=str(data))
    forget(store, "artifacts/scan/")
    monkeypatch.setenv("GESSO_WORKERS", workers)
    settings.cache_clear()
    with_memory = run_step("scan", {"snapshot": snapshot})
    assert (with_memory.metrics["decoded"], with_memory.metrics["remembered"]) == (14 - known, known)
    tables = contents(with_memory)
    forget(store, "")
    snapshot = run_step("snapshot", dataset=str(data))
    without = run_step("scan", {"snapshot": snapshot})
    assert without.metrics["decoded"] == 14
    assert contents(without) == tables


def test_processes_see_what_threads_see(
    run_step: RunStep, store: LocalStore, snapshot: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    tables = contents(run_step("scan", {"snapshot": snapshot}))
    forget(store, "artifacts/scan/")
    forget(store, "remembered/")
    monkeypatch.setenv("GESSO_WORKERS", "2")
    settings.cache_clear()
    monkeypatch.setattr(scan, "WORTH_A_PROCESS", 1)
    monkeypatch.setattr(scan, "GROUP", 2)
    monkeypatch.setattr(look, "open_image", None)  # not here
    by_processes = run_step("scan", {"snapshot": snapshot})
    assert by_processes.metrics["decoded"] == 14
    assert contents(by_processes) == tables


def test_processes_do_without_the_main_module(snapshot: Artifact, tmp_path: Path) -> None:
    main = tmp_path / "main.py"
    main.write_text(
        """
assert __name__ == "__main__", "imported anew, as Airflow in its tasks can't be"
import sys
from tasks import scan
from tasks.core.step import execute, load
scan.WORTH_A_PROCESS = scan.GROUP = 1
print(execute("scan", {"snapshot": sys.argv[1]}, load("scan").params.of({}), sys.argv[2]).artifact.metrics)
"""
    )
    done = subprocess.run(
        [sys.executable, main, snapshot.uri, tmp_path / "store"],
        env={**os.environ, "GESSO_WORKERS": "2", "PYTHONPATH": str(Path.cwd())},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert "'decoded': 14" in done.stdout


def die(*_: object) -> None:
    os._exit(1)


def test_a_process_that_is_ended_from_outside_is_told_of(
    run_step: RunStep, snapshot: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GESSO_WORKERS", "2")
    settings.cache_clear()
    monkeypatch.setattr(scan, "WORTH_A_PROCESS", 1)
    monkeypatch.setattr(scan, "look_at", die)
    with pytest.raises(StoreError, match="ended from outside"):
        run_step("scan", {"snapshot": snapshot})


def test_few_rows_are_in_memory_at_a_time(run_step: RunStep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"{'ab'[number % 2]}/{number:03}.png": encode(noise(number, 4, 4)) for number in range(200)}
    snapshot = run_step("snapshot", dataset=str(write(tmp_path / "data", files)))
    expected = contents_of_rows(run_step("scan", {"snapshot": snapshot}))
    monkeypatch.setenv("GESSO_WORKERS", "2")
    settings.cache_clear()
    monkeypatch.setattr(scan, "BATCH", 10)
    monkeypatch.setattr(scan, "GROUP", 2)
    looked, written, most = 0, 0, 0
    write_rows = scan.Tables.write

    def count_looks(uri: str, threads: int, max_pixels: int, group: list[look.Listed]) -> list[look.Row]:
        nonlocal looked
        looked += len(group)
        return look.look_at(uri, threads, max_pixels, group)

    def count_rows(tables: scan.Tables, images: pd.DataFrame, rows: pa.Table) -> None:
        nonlocal written, most
        most = max(most, looked - written)
        written += len(rows)
        write_rows(tables, images, rows)

    monkeypatch.setattr(scan, "look_at", count_looks)
    monkeypatch.setattr(scan.Tables, "write", count_rows)
    made = run_step("scan", {"snapshot": snapshot}, max_megapixels=99)
    assert (looked, written) == (200, 200)
    # Two batches, and what two workers have ahead: four groups of two each.
    assert most <= 2 * 10 + 2 * 4 * 2
    assert contents_of_rows(made) == expected


def contents_of_rows(artifact: Artifact) -> list[object]:
    return [artifact.table(name).to_dict("list") for name in TABLES]


def test_what_was_seen_before_an_error_is_remembered(
    run_step: RunStep, snapshot: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(scan, "BATCH", 2)
    monkeypatch.setattr(scan, "GROUP", 1)
    looked = 0

    def look_at_eleven(uri: str, threads: int, max_pixels: int, group: list[look.Listed]) -> list[look.Row]:
        nonlocal looked
        looked += 1
        if looked > 11:
            raise MemoryError
        return look.look_at(uri, threads, max_pixels, group)

    with monkeypatch.context() as until_then:
        until_then.setenv("GESSO_WORKERS", "1")
        settings.cache_clear()
        until_then.setattr(scan, "look_at", look_at_eleven)
        with pytest.raises(MemoryError):
            run_step("scan", {"snapshot": snapshot})
    settings.cache_clear()
    made = run_step("scan", {"snapshot": snapshot})
    assert made.metrics["remembered"] == 10
    assert made.metrics["decoded"] == 4


def test_only_what_is_new_or_changed_is_decoded(run_step: RunStep, data: Path, snapshot: Artifact) -> None:
    run_step("scan", {"snapshot": snapshot})
    write(data, {"a/new.png": encode(noise(50)), "a/그림 0.png": encode(noise(51, 30, 30))})
    made = run_step("scan", {"snapshot": run_step("snapshot", dataset=str(data))})
    assert (made.metrics["images"], made.metrics["decoded"], made.metrics["remembered"]) == (15, 2, 13)
    assert made.table("scan.parquet").set_index("key").loc["a/그림 0.png", "width"] == 30


def test_another_limit_is_another_look(run_step: RunStep, snapshot: Artifact) -> None:
    assert run_step("scan", {"snapshot": snapshot}).metrics["unreadable"] == 3
    small = run_step("scan", {"snapshot": snapshot}, max_megapixels=0.002)
    assert (small.metrics["unreadable"], small.metrics["decoded"]) == (14, 14)
    assert "0.0024 megapixels, more than the allowed 0.002" in set(small.table("scan.parquet")["error"])


@pytest.mark.parametrize("damage", [b"", b"PAR1 no longer", None], ids=["empty", "overwritten", "cut"])
def test_damaged_memory_is_set_aside(
    run_step: RunStep, store: LocalStore, snapshot: Artifact, capsys: pytest.CaptureFixture[str], damage: bytes | None
) -> None:
    expected = contents(run_step("scan", {"snapshot": snapshot}))
    (memory,) = store.list("remembered/")
    store.put(memory.key, store.get(memory.key)[:-100] if damage is None else damage)
    store.put(memory.key.rpartition("/")[0] + "/notes.txt", b"put here by somebody")
    forget(store, "artifacts/scan/")
    again = run_step("scan", {"snapshot": snapshot})
    assert again.metrics["decoded"] == 14
    assert contents(again) == expected
    assert "is damaged; its images are looked at again" in capsys.readouterr().out


@pytest.mark.parametrize("shards", [1, 3, 7])
def test_shards_hold_each_image_once_and_what_one_shard_holds(
    run_step: RunStep, store: LocalStore, snapshot: Artifact, shards: int
) -> None:
    whole = run_step("scan", {"snapshot": snapshot})
    forget(store, "remembered/")
    parts = [run_step("scan", {"snapshot": snapshot}, shard=shard, shards=shards) for shard in range(shards)]
    assert sum(int(part.metrics["images"] or 0) for part in parts) == 14
    for name in TABLES:
        tables = [part.table(name) for part in parts]
        joined = scan.pd.concat(tables).sort_values("key", ignore_index=True)
        scan.pd.testing.assert_frame_equal(joined, whole.table(name))
        assert all(table["key"].is_monotonic_increasing for table in tables)
        assert all(table.dtypes.equals(joined.dtypes) for table in tables)


def test_shards_remember_for_any_number_of_shards(run_step: RunStep, store: LocalStore, snapshot: Artifact) -> None:
    for shard in range(3):
        run_step("scan", {"snapshot": snapshot}, shard=shard, shards=3)
    whole = run_step("scan", {"snapshot": snapshot})
    halves = [run_step("scan", {"snapshot": snapshot}, shard=shard, shards=2) for shard in range(2)]
    assert [made.metrics["decoded"] for made in (whole, *halves)] == [0, 0, 0]


def test_what_vanished_or_changed_since_the_snapshot_is_a_verdict_and_not_remembered(
    run_step: RunStep, data: Path, snapshot: Artifact
) -> None:
    whole = (data / "a/그림 2.png").read_bytes()
    stamp = (data / "a/그림 2.png").stat()
    (data / "a/그림 2.png").unlink()
    write(data, {"a/그림 4.png": encode(noise(70)), "b/그림 1.png": b"shorter"})
    errors = run_step("scan", {"snapshot": snapshot}).table("scan.parquet").set_index("key")["error"]
    assert errors["a/그림 2.png"] == "gone since the snapshot"
    assert errors["a/그림 4.png"] == errors["b/그림 1.png"] == "changed since the snapshot"
    write(data, {"a/그림 2.png": whole, "a/another.png": encode(noise(71))})
    os.utime(data / "a/그림 2.png", ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
    later = run_step("scan", {"snapshot": run_step("snapshot", dataset=str(data))})
    assert (later.metrics["unreadable"], later.metrics["decoded"]) == (4, 4)


def test_what_was_out_of_reach_is_looked_for_again(run_step: RunStep, data: Path, snapshot: Artifact) -> None:
    (data / "a").rename(data / ".away")
    away = run_step("scan", {"snapshot": snapshot})
    assert "gone since the snapshot" in set(away.table("scan.parquet")["error"])
    assert run_step("scan", {"snapshot": snapshot}).key == away.key, "nothing has changed"
    (data / ".away").rename(data / "a")
    back = run_step("scan", {"snapshot": snapshot})
    assert back.key != away.key
    assert "gone since the snapshot" not in set(back.table("scan.parquet")["error"])
    assert run_step("scan", {"snapshot": snapshot}).key == back.key


def test_an_image_behind_a_link_that_leads_nowhere_is_gone_until_it_is_back(
    run_step: RunStep, data: Path, tmp_path: Path
) -> None:
    away = write(tmp_path / "away", {"1.png": GOOD["a/그림 0.png"]})
    (data / "a" / "linked.png").symlink_to(away / "1.png")
    (data / "a" / "round.png").symlink_to(data / "a" / "round.png")
    away.rename(tmp_path / "unmounted")
    made = run_step("scan", {"snapshot": run_step("snapshot", dataset=str(data))})
    errors = made.table("scan.parquet").set_index("key")["error"]
    assert errors["a/linked.png"] == errors["a/round.png"] == "gone since the snapshot"
    (tmp_path / "unmounted").rename(away)
    back = run_step("scan", {"snapshot": run_step("snapshot", dataset=str(data))})
    errors = back.table("scan.parquet").set_index("key")["error"]
    assert (errors["a/linked.png"], errors["a/round.png"]) == ("", "gone since the snapshot")


def test_a_file_that_goes_while_it_is_read_is_gone(
    run_step: RunStep, snapshot: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    get = LocalStore.get

    def read_and_lose(store: LocalStore, key: str, version: str | None = None) -> bytes:
        found = get(store, key, version)
        if key == "a/그림 2.png":
            (store.root / key).unlink()
        return found

    monkeypatch.setattr(LocalStore, "get", read_and_lose)
    errors = run_step("scan", {"snapshot": snapshot}).table("scan.parquet").set_index("key")["error"]
    assert errors["a/그림 2.png"] == "gone since the snapshot"


@pytest.mark.parametrize("kind", ["s3", "s3_versioned"])
def test_what_is_archived_is_no_failure_and_is_looked_at_when_it_is_restored(
    run_step: RunStep, request: pytest.FixtureRequest, kind: str
) -> None:
    bucket = open_store(request.getfixturevalue(kind))
    assert isinstance(bucket, S3Store)
    bucket.put_many(GOOD.items())
    cold = {f"{'ab'[number % 2]}/cold {number}.png": encode(noise(50 + number)) for number in range(12)}
    names = {key: {"Bucket": bucket.bucket, "Key": bucket.prefix + key} for key in cold}
    for key, data in cold.items():
        bucket.client.put_object(**names[key], Body=data, StorageClass="GLACIER")

    def scanned() -> Artifact:
        return run_step("scan", {"snapshot": run_step("snapshot", dataset=bucket.uri)})

    first = scanned()
    rows = first.table("scan.parquet").set_index("key")
    assert set(rows.loc[list(cold), "error"]) == {"archived: restore it, or take it out of the data set"}
    assert set(rows.loc[list(GOOD), "error"]) == {""}
    assert scanned().key == first.key, "nothing has changed"
    for name in names.values():
        bucket.client.restore_object(**name, RestoreRequest={"Days": 1})
    restored = scanned()
    assert restored.inputs == first.inputs, "a restore changes nothing in the listing"
    assert set(restored.table("scan.parquet")["error"]) == {""}
    assert restored.metrics["decoded"] == len(cold)


def test_a_data_set_that_is_away_is_no_verdict_on_its_images(run_step: RunStep, tmp_path: Path) -> None:
    files = {f"{'ab'[number % 2]}/{number}.jpg": b"text" for number in range(12)}
    snapshot = run_step("snapshot", dataset=str(write(tmp_path / "data", files)))
    (tmp_path / "data").rename(tmp_path / "unmounted")
    with pytest.raises(StoreError, match="12 of 12 images are gone or were changed"):
        run_step("scan", {"snapshot": snapshot})


def test_when_no_image_is_readable_the_tables_are_there(run_step: RunStep, tmp_path: Path) -> None:
    data = write(tmp_path / "data", {"a/1.jpg": b"text", "b/2.jpg": b""})
    made = run_step("scan", {"snapshot": run_step("snapshot", dataset=str(data))})
    assert list(made.table("scan.parquet")["status"]) == ["unreadable", "unreadable"]
    assert made.table("features.parquet").shape == (0, 1 + len(FEATURE_NAMES))
    assert list(made.table("thumbnails.parquet").columns) == ["key", "jpeg"]


def test_a_file_too_long_for_any_allowed_picture_is_not_read(run_step: RunStep, tmp_path: Path) -> None:
    data = write(tmp_path / "data", {"a/1.png": GOOD["a/그림 0.png"], "b/2.png": b""})
    os.truncate(data / "b/2.png", 50 << 30)  # sparse: 50 GiB that take no space
    made = run_step("scan", {"snapshot": run_step("snapshot", dataset=str(data))})
    assert list(made.table("scan.parquet")["error"]) == [
        "",
        "53,687 MB, more than an image of the allowed size can have",
    ]


@pytest.mark.parametrize("kind", ["s3", "s3_versioned"])
def test_a_bucket_is_scanned_as_listed(run_step: RunStep, request: pytest.FixtureRequest, kind: str) -> None:
    bucket, versioned = open_store(request.getfixturevalue(kind)), kind == "s3_versioned"
    files = {"a/../1.png": encode(noise(1)), "b//그림.png": encode(noise(2)), "b/3.jpg": b"text"}
    for key, data in files.items():
        bucket.put(key, data)
    snapshot = run_step("snapshot", dataset=bucket.uri)
    bucket.put("a/../1.png", encode(noise(3, 5, 5)))
    bucket.delete("b//그림.png")
    rows = run_step("scan", {"snapshot": snapshot}).table("scan.parquet").set_index("key")
    found = [rows.loc[key, "error"] for key in files]
    seen = ["", ""] if versioned else ["changed since the snapshot", "gone since the snapshot"]
    assert found == [*seen, "not an image (starts with 'text')"]


def test_more_pixels_may_be_more_bytes() -> None:
    assert look.max_bytes(200_000_000) > look.max_bytes(100_000_000) > 8e8
