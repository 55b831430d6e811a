"""Look at every image of the snapshot once, and write down all that the later steps want to know of it.

Each file is read and decoded a single time for its size, hashes, colours, features and thumbnail. An image that can't
be opened is a row like any other, with the reason. What was seen is remembered by each object's identity (data set,
key, version or ETag, size), so the next run decodes only what is new. A large snapshot is scanned in shards: the images
whose key's SHA-256 leaves the remainder `shard` when it is divided by `shards`.

Writes, sorted by key:
    scan.parquet        the snapshot's columns and status, error, note, width, height, format, mode, frames,
                        orientation, has_alpha, sha256, phash, brightness, sharpness, hue, lightness, saturation
    features.parquet    key and the features of `vision/features.py`; readable images only
    thumbnails.parquet  key and jpeg (longest side 128 pixels); readable images only
"""

import hashlib
import io
import math
import multiprocessing
import os
import re
import threading
import time
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import cache, partial
from itertools import islice
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core import params
from tasks.core.artifacts import Inputs, Output, canonical
from tasks.core.errors import DataError, NotFound, StoreError
from tasks.core.objects import ahead
from tasks.core.settings import settings
from tasks.core.step import code_digest
from tasks.core.store import Store, in_threads, open_store
from tasks.vision.features import FEATURE_NAMES, FEATURE_SIZE, describe, fit
from tasks.vision.images import open_image, perceptual_hash, thumbnail_jpeg

INPUTS = ("snapshot",)
Params = params.ScanParams

LOG_SECONDS = 10
BATCH = 1_000  # images whose rows are written at a time
GROUP = 16  # images that a worker takes on at a time
WORTH_A_PROCESS = 1_000  # images for each worker: a process takes seconds to start
_COLOUR = [FEATURE_NAMES.index(n) for n in ("hue_mean_cosine", "hue_mean_sine", "lightness_mean", "saturation_mean")]
GONE, CHANGED = LOST = ("gone since the snapshot", "changed since the snapshot")


@dataclass(frozen=True, slots=True)
class Listed:
    """An image of the snapshot, to be looked at."""

    key: str
    bytes: int
    etag: str
    version: str | None
    modified: datetime


@dataclass(frozen=True, slots=True)
class Row:
    """What one look at an image tells. Fields are columns of scan.parquet, except the last two."""

    status: str  # "ok" or "unreadable"
    error: str  # why it is unreadable
    note: str = ""
    width: int = 0
    height: int = 0
    format: str = ""
    mode: str = ""
    frames: int = 0
    orientation: int = 1
    has_alpha: bool = False
    sha256: str = ""
    phash: str = ""
    brightness: float = 0.0
    sharpness: float = 0.0
    hue: float = 0.0
    lightness: float = 0.0
    saturation: float = 0.0
    features: bytes = b""  # float32 [len(FEATURE_NAMES)]
    jpeg: bytes = b""


#: Types of the columns that a row adds to the snapshot's.
COLUMNS = {
    "status": "str", "error": "str", "note": "str", "width": "int32", "height": "int32", "format": "str",
    "mode": "str", "frames": "int32", "orientation": "int8", "has_alpha": "bool", "sha256": "str", "phash": "str",
    "brightness": "float32", "sharpness": "float32", "hue": "float32", "lightness": "float32", "saturation": "float32",
}  # fmt: skip


def run(inputs: Inputs, params: Params, out: Output) -> None:
    """Scan one shard of the snapshot.

    Raises:
        StoreError: the data set or the artifact store can't be read or written; or a tenth of the images is gone.
    """
    snapshot = inputs.one("snapshot")
    dataset = open_store(snapshot.json("snapshot.json")["dataset"])
    images = snapshot.table("images.parquet")
    images = images[in_shard(images["key"], params.shard, params.shards)].reset_index(drop=True)
    identities = _identities(images, dataset.uri, params.max_megapixels)
    memory = Memory(out, params)
    rows = memory.recall(set(identities))
    remembered = len(rows)

    new = [index for index, identity in enumerate(identities) if identity not in rows]
    looked = _look_at_all(dataset, images, new, params, out)
    lost: list[str] = []
    unreadable = 0
    with Tables(out) as tables, ThreadPoolExecutor(1) as pool:
        writing: Future[None] | None = None
        for start in range(0, len(images) or 1, BATCH):  # once at least: there are tables of no image, too
            batch = images.iloc[start : start + BATCH]
            names = identities[start : start + BATCH]
            found = {identity: next(looked) for identity in names if identity not in rows}
            seen = [found.get(identity) or rows.pop(identity) for identity in names]
            lost += [key for key, row in zip(batch["key"], seen, strict=True) if row.error in LOST]
            unreadable += sum(row.status != "ok" for row in seen)
            if writing:
                writing.result()
            # Beside the looking, which goes on meanwhile; never more than one batch waits.
            writing = pool.submit(_write, tables, memory, batch, seen, found)
        if writing:
            writing.result()
    if len(lost) > max(10, len(images) / 10):
        raise StoreError(
            f"{len(lost):,} of {len(images):,} images are gone or were changed since the snapshot, such as "
            f"{lost[0]!r}. If {dataset.uri} is whole and at rest, run again with a new snapshot."
        )
    out.metrics |= {
        "images": len(images),
        "unreadable": unreadable,
        "decoded": len(new),
        "remembered": remembered,
    }


def look(data: bytes, max_pixels: int) -> Row:
    """Decode a file and describe what is seen; never raises for what the file holds."""
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        image = open_image(data, max_pixels=max_pixels, min_side=FEATURE_SIZE, reduced=False)
    except DataError as error:
        return Row("unreadable", str(error), sha256=sha256)
    small = fit(image.pixels)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    features = describe(small)
    hue, lightness, saturation = mean_colour(features)
    return Row(
        status="ok",
        error="",
        note=image.note,
        width=image.width,
        height=image.height,
        format=image.format,
        mode=image.mode,
        frames=image.frames,
        orientation=image.orientation,
        has_alpha=image.has_alpha,
        sha256=sha256,
        phash=perceptual_hash(small),
        brightness=cv2.mean(grey)[0],
        sharpness=float(cv2.meanStdDev(cv2.Laplacian(grey, cv2.CV_16S))[1][0, 0] ** 2),
        hue=hue,
        lightness=lightness,
        saturation=saturation,
        features=features.tobytes(),
        jpeg=thumbnail_jpeg(small, FEATURE_SIZE),
    )


def mean_colour(features: npt.NDArray[np.float32]) -> tuple[float, float, float]:
    """Mean hue in degrees (circular, weighted by chroma: a grey pixel has no hue), lightness and saturation in 0..1."""
    cosine, sine, lightness, saturation = features[_COLOUR].tolist()
    return math.degrees(math.atan2(sine, cosine)) % 360, lightness, saturation


def in_shard(keys: Iterable[str], shard: int, shards: int) -> list[bool]:
    """Which keys belong to this shard. A key's shard does not depend on the other keys."""
    return [int.from_bytes(hashlib.sha256(key.encode()).digest()) % shards == shard for key in keys]


def max_bytes(params: Params) -> int:
    """More bytes than any sensible file with the allowed number of pixels: 8 for each, and some for what is beside."""
    return int(params.max_megapixels * 8e6) + (16 << 20)


def _identities(images: pd.DataFrame, dataset: str, max_megapixels: float) -> list[str]:
    """By what the row of each image is remembered."""
    columns = [images[name] for name in ("key", "bytes", "etag", "version")]
    return [
        # The limit decides about an image as its content does.
        hashlib.sha256(canonical([dataset, key, _given(version) or etag, size, max_megapixels])).hexdigest()[:32]
        for key, size, etag, version in zip(*columns, strict=True)
    ]


def _given(version: Any) -> str | None:
    return version if isinstance(version, str) else None


def _look_at_all(store: Store, images: pd.DataFrame, rows: list[int], params: Params, out: Output) -> Iterator[Row]:
    """What is seen in these rows' objects, in their order."""
    columns = [images[name].iloc[rows] for name in ("key", "bytes", "etag", "version", "modified")]
    listed = (
        Listed(key, size, etag, _given(version), modified.to_pydatetime())
        for key, size, etag, version, modified in zip(*columns, strict=True)
    )
    groups = iter(lambda: list(islice(listed, GROUP)), [])
    started = logged = time.monotonic()
    done = 0
    with _workers(len(rows)) as pool:
        # Over a network most of the time is waiting.
        threads = 1 if store.local_path("") else max(1, store.threads // settings().threads)
        look_at = partial(_look_at_group, store.uri, threads, params)
        for seen in ahead(pool, look_at, groups, 4 * settings().threads):
            yield from seen
            done += len(seen)
            now = time.monotonic()
            if now - logged >= LOG_SECONDS:
                logged, rate = now, done / (now - started)
                left = (len(rows) - done) / rate
                out.log(f"scan: {done:,} of {len(rows):,} images, {rate:,.0f} images/s, {left:,.0f} s left")


@contextmanager
def _workers(images: int) -> Iterator[Executor]:
    """As many workers as there are cores.

    Processes where they are worth their start, since a look takes a hundred steps that release the GIL and take it
    again; threads otherwise, and where a process may have no children.
    """
    count = settings().threads
    if count == 1 or images < count * WORTH_A_PROCESS or multiprocessing.current_process().daemon:
        with ThreadPoolExecutor(count) as threads:
            yield threads
        return
    # Forked from a server that has imported this module once, and runs no threads.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    try:
        with ProcessPoolExecutor(count, context, _end_with_the_parent) as processes:
            yield processes
    except BrokenProcessPool as error:
        raise StoreError(
            "A process of the scan was ended from outside, likely since the machine has too little memory. What was "
            "seen is remembered: run again. Lower GESSO_WORKERS where it happens again."
        ) from error


def _end_with_the_parent() -> None:
    """A worker whose parent is killed would wait for work for ever."""
    parent = multiprocessing.parent_process()

    def wait() -> None:
        if parent:
            parent.join()
        os._exit(1)

    threading.Thread(target=wait, daemon=True).start()


def _look_at_group(uri: str, threads: int, params: Params, group: list[Listed]) -> list[Row]:
    cv2.setNumThreads(1)  # all cores are busy with an image each
    store = _opened(uri)
    return list(
        in_threads(lambda each: _look_at(store, each, params), group, threads)
        if threads > 1
        else (_look_at(store, each, params) for each in group)
    )


@cache
def _opened(uri: str) -> Store:
    return open_store(uri)


def _look_at(store: Store, each: Listed, params: Params) -> Row:
    if each.bytes > max_bytes(params):
        return Row("unreadable", f"{each.bytes / 1e6:,.0f} MB, more than an image of the allowed size can have")
    try:
        data, same = _read(store, each)
    except NotFound:
        return Row("unreadable", GONE)
    if not same or len(data) != each.bytes:
        return Row("unreadable", CHANGED)
    return look(data, int(params.max_megapixels * 1e6))


def _read(store: Store, each: Listed) -> tuple[bytes, bool]:
    """The object's bytes, and whether they are still those that the snapshot lists."""
    if each.version:
        return store.get(each.key, each.version), True
    path = store.local_path(each.key)
    if path is None:
        data, etag = store.get_with_etag(each.key)
        return data, etag.strip('"') == each.etag
    data = store.get(each.key)
    return data, abs(datetime.fromtimestamp(path.stat().st_mtime, UTC) - each.modified).total_seconds() < 1e-3


class Tables:
    """The three tables, written a batch at a time, so that no more than that lies in memory."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._writers: dict[str, pq.ParquetWriter] = {}

    def __enter__(self) -> "Tables":
        return self

    def __exit__(self, *_: object) -> None:
        for writer in self._writers.values():
            writer.close()

    def write(self, images: pd.DataFrame, rows: list[Row]) -> None:
        """Append what was seen in these images of the snapshot."""
        columns = {name: [getattr(row, name) for row in rows] for name in COLUMNS}
        frame = pd.concat([images, pd.DataFrame(columns, index=images.index).astype(COLUMNS)], axis=1)
        self._append("scan.parquet", pa.Table.from_pandas(frame, preserve_index=False))
        readable = [(key, row) for key, row in zip(images["key"], rows, strict=True) if row.status == "ok"]
        keys = pa.array([key for key, _ in readable], pa.string())
        values = np.frombuffer(b"".join(row.features for _, row in readable), np.float32)
        by_name = values.reshape(len(readable), len(FEATURE_NAMES)).T.copy()
        features = {"key": keys} | {name: pa.array(column) for name, column in zip(FEATURE_NAMES, by_name, strict=True)}
        self._append("features.parquet", pa.table(features))
        jpegs = pa.array([row.jpeg for _, row in readable], pa.binary())  # typed, should there be none
        self._append("thumbnails.parquet", pa.table({"key": keys, "jpeg": jpegs}))

    def _append(self, name: str, table: pa.Table) -> None:
        if name not in self._writers:
            # Hardly a number or a picture is there twice, so a dictionary of them is looked for in vain.
            self._writers[name] = pq.ParquetWriter(
                self._out.path(name),
                table.schema,
                compression="zstd",
                use_dictionary=name == "scan.parquet",
                write_statistics=name == "scan.parquet",
            )
        self._writers[name].write_table(table)


def _write(tables: Tables, memory: "Memory", images: pd.DataFrame, rows: list[Row], new: dict[str, Row]) -> None:
    tables.write(images, rows)
    memory.keep({identity: row for identity, row in new.items() if row.error not in LOST})


class Memory:
    """Rows of earlier scans, in the artifact store: immutable Parquet files, each with the new rows of one scan.

    A file's name holds its shard and the SHA-256 of its content. Nothing breaks where files are missing or damaged.
    """

    NAME = re.compile(r"(?P<shard>\d+)-of-(?P<shards>\d+)-(?P<sha256>[0-9a-f]{32})\.parquet")

    def __init__(self, out: Output, params: Params) -> None:
        self.store, self.log = out.store, out.log
        self.shard, self.shards = params.shard, params.shards
        self.folder = f"remembered/scan/{code_digest('scan')}/"

    def recall(self, identities: Collection[str]) -> dict[str, Row]:
        """The remembered rows of these objects, by identity."""
        rows: dict[str, Row] = {}
        wanted = pa.array(sorted(identities), pa.string())
        for key in sorted(found.key for found in self.store.list(self.folder)):
            name = self.NAME.fullmatch(key.removeprefix(self.folder))
            if name is None or not self._overlaps(int(name["shard"]), int(name["shards"])):
                continue
            try:
                data = self.store.get(key)
            except NotFound:
                continue  # removed meanwhile
            if hashlib.sha256(data).hexdigest()[:32] != name["sha256"]:
                self.log(f"scan: {self.store.uri}/{key} is damaged; its images are looked at again")
                continue
            table = pq.read_table(io.BytesIO(data))
            table = table.filter(pc.is_in(table["identity"], wanted))
            for identity, *values in zip(*(column.to_pylist() for column in table.columns), strict=True):
                rows[identity] = Row(*values)
        return rows

    def keep(self, rows: dict[str, Row]) -> None:
        """Remember these rows, by identity."""
        if not rows:
            return
        columns: dict[str, Any] = {"identity": pa.array(list(rows), pa.string())}
        for field in fields(Row):
            columns[field.name] = pa.array([getattr(row, field.name) for row in rows.values()])
        buffer = io.BytesIO()
        pq.write_table(pa.table(columns), buffer, compression="zstd")
        data = buffer.getvalue()
        name = f"{self.shard}-of-{self.shards}-{hashlib.sha256(data).hexdigest()[:32]}.parquet"
        self.store.create(self.folder + name, data)

    def _overlaps(self, shard: int, shards: int) -> bool:
        """Whether that shard and this one can have an image in common (Chinese remainder theorem)."""
        return (shard - self.shard) % math.gcd(shards, self.shards) == 0
