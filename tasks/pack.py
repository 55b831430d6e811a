"""Bring the images in use to one size, once: a training reads their pixels and never the files again.

A large data set is packed in shards, as it is scanned: the images whose place (`core/remembered.py`) leaves the
remainder `shard` when it is divided by `shards`. What the last run packed is copied where an image's bytes are the
same.

Writes:
    rows.parquet    row (of `used.parquet`), sha256, file, offset: where each image of this shard is, by row
    <nnn>.npy       the pixels: uint8 [n, size, size, 3], RGB
"""

import hashlib
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.core import params
from tasks.core.artifacts import Artifact, Inputs, Output
from tasks.core.errors import DataError, NotFound
from tasks.core.remembered import place_of
from tasks.core.settings import settings
from tasks.core.step import code_digest
from tasks.core.store import Store, open_store
from tasks.core.use import hold
from tasks.vision.images import open_image, resize
from tasks.vision.pack import Pack, pixel_files

INPUTS = ("snapshot", "resample")
Params = params.PackParams

FILE_BYTES = 64 << 20
LOG_SECONDS = 10


def run(inputs: Inputs, params: Params, out: Output) -> None:
    """Pack one shard.

    Raises:
        DataError: an image was changed or removed since the snapshot.
    """
    used = inputs.one("resample").table("used.parquet")
    mine = used[place_of(used["key"]) % np.uint64(params.shards) == params.shard].reset_index(drop=True)
    dataset = open_store(inputs.one("snapshot").json("snapshot.json")["dataset"])
    per_file = max(1, FILE_BYTES // (params.image_size**2 * 3))
    last = LastPack(dataset.uri, params, out)
    copied = write_pixels(dataset, mine, params.image_size, per_file, out, last)
    at = np.arange(len(mine))
    places = {"file": (at // per_file).astype(np.int32), "offset": (at % per_file).astype(np.int32)}
    out.table("rows.parquet", mine[["row", "sha256"]].assign(**places))
    last.note()
    out.metrics |= {"images": len(mine), "copied": copied}


class LastPack:
    """What the last run packed of the data set at this size: most of these pixels are wanted again.

    A note in the store, `remembered/pack/<code>/<data set>-<size>/<shard>-of-<shards>`, holds the key of its artifact.
    Nothing breaks where it is missing or where the artifact is gone: then all images are decoded. Where there were half
    as many shards, or twice as many, the shard's images lie in one of them, or in two.
    """

    def __init__(self, dataset: str, params: Params, out: Output) -> None:
        self._out, self._shard, self._shards = out, params.shard, params.shards
        digest = hashlib.sha256(dataset.encode()).hexdigest()[:16]
        self._folder = f"remembered/pack/{code_digest('pack')}/{digest}-{params.image_size}"
        self._places: dict[str, tuple[Pack, int]] = {}
        for notes in self._where():
            for pack, rows in filter(None, map(self._opened, notes)):
                self._places |= {digest: (pack, row) for row, digest in enumerate(rows["sha256"])}
            if self._places:
                break

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._places

    def pixels(self, sha256: str) -> npt.NDArray[np.uint8] | None:
        """uint8 [size, size, 3] of the file with this digest, where it was packed."""
        if sha256 not in self._places:
            return None
        pack, row = self._places[sha256]
        pixels: npt.NDArray[np.uint8] = pack.gather(np.array([row]))[0]
        return pixels

    def note(self) -> None:
        """Say that the artifact in the making is the last one."""
        self._out.store.put(self._key(self._shard, self._shards), self._out.checkpoint.key.encode())

    def _key(self, shard: int, shards: int) -> str:
        return f"{self._folder}/{shard}-of-{shards}"

    def _where(self) -> Iterator[list[str]]:
        """Notes of the shards in which this one's images may lie, the likeliest first."""
        shard, shards = self._shard, self._shards
        yield [self._key(shard, shards)]
        if shards % 2 == 0:
            yield [self._key(shard % (shards // 2), shards // 2)]
        yield [self._key(shard, 2 * shards), self._key(shard + shards, 2 * shards)]

    def _opened(self, note: str) -> tuple[Pack, pd.DataFrame] | None:
        store = self._out.store
        try:
            artifact = Artifact.find(store, "pack", store.get(note).decode())
            if artifact is None or not hold(artifact):
                return None
            rows = artifact.table("rows.parquet")
            places = rows[["file", "offset"]].rename(columns={"file": "shard"}).assign(row=range(len(rows)))
            return Pack(pixel_files(artifact, rows), places), rows
        except (NotFound, DataError, ValueError):
            return None


def write_pixels(
    dataset: Store, used: pd.DataFrame, size: int, per_file: int, out: Output, last: LastPack | None = None
) -> int:
    """Write the files of pixels, one in memory at a time; an image whose pixels aren't known is decoded, once.

    Args:
        dataset: the data set.
        used: columns key, version, sha256, width, height.
        size: side of the square that images are resized to.
        per_file: images a file.
        out: where to.
        last: what was packed before.

    Returns:
        How many images were packed before.

    Raises:
        DataError: an image is not there any more, or is not the one that was scanned.
    """
    cv2.setNumThreads(1)  # each thread works on an image of its own
    threads = settings().threads
    readers = threads if dataset.local_path("") else max(16, 4 * threads)  # over a network most of the time is waiting
    wanted = used[["key", "version", "sha256", "width", "height"]].to_dict("records")
    copied = sum(row["sha256"] in last for row in wanted) if last else 0
    if copied:
        out.log(f"pack: {copied:,} of {len(wanted):,} images were packed before")
    progress = _progress(len(wanted), out)
    with ThreadPoolExecutor(readers) as pool:
        for number, start in enumerate(range(0, len(wanted), per_file)):
            rows = wanted[start : start + per_file]
            pixels = np.empty((len(rows), size, size, 3), np.uint8)

            def fill(offset: int, rows: list[Any] = rows, pixels: npt.NDArray[np.uint8] = pixels) -> None:
                before = last.pixels(rows[offset]["sha256"]) if last else None
                pixels[offset] = _picture(dataset, rows[offset], size) if before is None else before

            for offset, _ in enumerate(pool.map(fill, range(len(rows))), start=1):
                progress(start + offset)
            np.save(out.path(f"{number:03}.npy"), pixels)
    return copied


def _picture(dataset: Store, image: dict[str, Any], size: int) -> npt.NDArray[np.uint8]:
    key, version = image["key"], image["version"]
    again = f"Run again: a new snapshot sees {dataset.uri} as it is now."
    try:
        data = dataset.get(key, version if isinstance(version, str) else None)
    except NotFound as error:
        raise DataError(f"{key!r} was removed since the snapshot. {again}") from error
    if hashlib.sha256(data).hexdigest() != image["sha256"]:
        raise DataError(f"{key!r} was changed since the snapshot: its bytes are not those that were scanned. {again}")
    return resize(open_image(data, max_pixels=image["width"] * image["height"], min_side=size).pixels, size)


def _progress(total: int, out: Output) -> Callable[[int], None]:
    started = logged = time.monotonic()

    def tell(done: int) -> None:
        nonlocal logged
        now = time.monotonic()
        if now - logged >= LOG_SECONDS:
            logged, rate = now, done / (now - started)
            left = (total - done) / rate
            out.log(f"pack: {done:,} of {total:,} images packed, {rate:,.0f} images/s, {left:,.0f} s left")

    return tell
