"""Bring the images in use to one size, once: a training reads their pixels and never the files again.

A large data set is packed in shards, as it is scanned: the images whose place (`core/remembered.py`) leaves the
remainder `shard` when it is divided by `shards`. The shard's images lie in its files from old to new, and an image's
own digest says whether a file ends with it. So new images change the last files, one that is not used any more changes
its file alone, and all other files are those of the last run: they are shared with its artifact, not made again.
(Content-defined chunks: Muthitacharoen, Chen and Mazières, "A low-bandwidth network file system", 2001.) In
a changed file the pixels of known images are taken from the last run's.

Writes:
    rows.parquet    row (of `used.parquet`), sha256, file, offset: where each image of this shard is, by row
    <nnn>.npy       the pixels: uint8 [n, size, size, 3], RGB
"""

import hashlib
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import islice
from threading import Lock
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd

from tasks.core import params
from tasks.core.artifacts import Artifact, Inputs, Output
from tasks.core.errors import DataError, NotFound
from tasks.core.objects import ahead
from tasks.core.remembered import place_of
from tasks.core.settings import settings
from tasks.core.step import code_digest, find_whole
from tasks.core.store import Store, open_store
from tasks.core.use import hold
from tasks.vision.images import open_image, resize
from tasks.vision.pack import Shard, file_name

INPUTS = ("snapshot", "resample")
Params = params.PackParams

#: Of a file, on average. The smaller files are, the more of them a second run shares, and the more there are.
FILE_BYTES = 8 << 20
LONGEST = 4  # times the average
LOG_SECONDS = 10

Bytes = npt.NDArray[np.uint8]


def run(inputs: Inputs, params: Params, out: Output) -> None:
    """Pack one shard.

    Raises:
        DataError: an image was changed or removed since the snapshot.
    """
    used = inputs.one("resample").table("used.parquet")
    mine = used[place_of(used["key"]) % np.uint64(params.shards) == params.shard]
    mine = mine.sort_values(["modified", "key"], ignore_index=True)
    dataset = open_store(inputs.one("snapshot").json("snapshot.json")["dataset"])
    files = divided(mine["sha256"].tolist(), max(1, FILE_BYTES // (params.image_size**2 * 3)))
    last = LastPack(dataset.uri, params, out)
    copied = write_pixels(dataset, mine, params.image_size, files, out, last)
    sizes = [file.stop - file.start for file in files]
    places = {
        "file": np.repeat(np.arange(len(files), dtype=np.int32), sizes),
        "offset": np.concatenate([np.arange(size, dtype=np.int32) for size in sizes] or [np.zeros(0, np.int32)]),
    }
    out.table("rows.parquet", mine[["row", "sha256"]].assign(**places).sort_values("row", ignore_index=True))
    last.note()
    out.metrics |= {"images": len(mine), "copied": copied}


def divided(digests: Sequence[str], average: int) -> list[slice]:
    """The images of each file: about `average` of them, at most LONGEST times as many.

    Where a file ends the images' SHA-256 say (hex), so images that come and go leave the other files as they are.
    """
    files, start = [], 0
    for end, digest in enumerate(digests, start=1):
        if end - start == LONGEST * average or int(digest[:12], 16) % average == 0 or end == len(digests):
            files.append(slice(start, end))
            start = end
    return files


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
        self._files: dict[tuple[str, ...], tuple[Artifact, str]] = {}
        self._places: dict[str, tuple[Artifact, str, int]] = {}
        self._opened: dict[tuple[str, str], Shard | None] = {}
        self._opening = Lock()  # a file is fetched and checked once, whichever of its images is wanted first
        for notes in self._where():
            for artifact in filter(None, map(self._noted, notes)):
                self._know(artifact)
            if self._places:
                break

    def __contains__(self, sha256: str) -> bool:
        return sha256 in self._places

    def file(self, digests: Sequence[str]) -> tuple[Artifact, str] | None:
        """The file that holds just these images, in this order: its artifact, and its name there."""
        found = self._files.get(tuple(digests))
        if found and self._out.store.local_path("") is not None:  # a bucket sees to its objects itself
            artifact, name = found
            try:
                artifact.path(name)
            except DataError:  # it was damaged
                return None
        return found

    def pixels(self, sha256: str) -> Bytes | None:
        """uint8 [size, size, 3] of the image with this digest, where it was packed."""
        if sha256 not in self._places:
            return None
        artifact, name, offset = self._places[sha256]
        with self._opening:
            if (artifact.key, name) not in self._opened:
                self._opened[artifact.key, name] = self._shard_of(artifact, name)
            shard = self._opened[artifact.key, name]
        if shard is None:
            return None
        pixels = np.empty((shard.size, shard.size, 3), np.uint8)
        shard.read(offset, pixels)
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

    def _noted(self, note: str) -> Artifact | None:
        store = self._out.store
        try:
            artifact = find_whole(store, "pack", store.get(note).decode())
        except (NotFound, DataError, ValueError):
            return None
        return artifact if artifact is not None and hold(artifact) else None

    def _know(self, artifact: Artifact) -> None:
        try:
            rows = artifact.table("rows.parquet").sort_values(["file", "offset"])
        except DataError:
            return
        for number, images in rows.groupby("file"):
            name, digests = file_name(int(str(number))), images["sha256"].tolist()
            self._files[tuple(digests)] = artifact, name
            self._places |= {digest: (artifact, name, offset) for offset, digest in enumerate(digests)}

    @staticmethod
    def _shard_of(artifact: Artifact, name: str) -> Shard | None:
        try:
            return Shard(artifact.path(name))
        except DataError:  # it was damaged
            return None


def write_pixels(
    dataset: Store, used: pd.DataFrame, size: int, files: Sequence[slice], out: Output, last: LastPack | None = None
) -> int:
    """Write the files of pixels, one in memory at a time; an image whose pixels aren't known is decoded, once.

    Args:
        dataset: the data set.
        used: columns key, version, sha256, width, height.
        size: side of the square that images are resized to.
        files: the images of each file.
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
    digests = [row["sha256"] for row in wanted]
    if last and (before := sum(digest in last for digest in digests)):
        out.log(f"pack: {before:,} of {len(wanted):,} images were packed before")
    with ThreadPoolExecutor(readers) as pool:
        found = pool.map(last.file, [digests[file] for file in files]) if last else [None] * len(files)
        shared = {number: file for number, file in enumerate(found) if file}
        new = {number: file for number, file in enumerate(files) if number not in shared}
        rows = [row for file in new.values() for row in wanted[file]]
        pictures = ahead(pool, partial(_pixels, dataset, size, last), rows, 4 * readers)
        progress, done, copied = _progress(len(rows), out), 0, len(wanted) - len(rows)
        for number, file in new.items():
            pixels = np.empty((file.stop - file.start, size, size, 3), np.uint8)
            for place, (picture, known) in zip(pixels, islice(pictures, len(pixels)), strict=True):
                place[:] = picture
                copied += known
                progress(done := done + 1)
            np.save(out.path(file_name(number)), pixels)
    out.shared |= {file_name(number): file for number, file in shared.items()}
    return copied


def _pixels(dataset: Store, size: int, last: LastPack | None, image: dict[str, Any]) -> tuple[Bytes, bool]:
    """The image at its size, and whether it was packed before."""
    known = last.pixels(image["sha256"]) if last else None
    return (_picture(dataset, image, size), False) if known is None else (known, True)


def _picture(dataset: Store, image: dict[str, Any], size: int) -> Bytes:
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
