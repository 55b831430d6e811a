"""Look at every image of the snapshot once, and write down all that the later steps want to know of it.

Each file is read and decoded a single time for its size, hashes, colours, features and thumbnail. An image that can't
be opened is a row like any other, with the reason. What was seen is remembered by each object's identity (data set,
key, version or ETag, size), so the next run decodes only what is new. A large snapshot is scanned in shards: the images
whose place (`core/remembered.py`) leaves the remainder `shard` when it is divided by `shards`.

Writes, sorted by key:
    scan.parquet        the snapshot's columns and status, error, note, width, height, format, mode, frames,
                        orientation, has_alpha, sha256, phash, brightness, sharpness, hue, lightness, saturation
    features.parquet    key and the features of `vision/features.py`; readable images only
    thumbnails.parquet  key and jpeg (longest side 128 pixels); readable images only
"""

import hashlib
import multiprocessing
import os
import time
from collections.abc import Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from functools import partial
from itertools import islice
from typing import Any

import loky
import numpy as np
import numpy.typing as npt
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from tasks.core import params
from tasks.core.artifacts import Inputs, Output, canonical
from tasks.core.errors import StoreError
from tasks.core.objects import ahead
from tasks.core.remembered import Remembered, place_of
from tasks.core.settings import settings
from tasks.core.step import code_digest
from tasks.core.store import Store, open_store
from tasks.vision.features import FEATURE_NAMES
from tasks.vision.look import LOST, PASSING, Listed, Row, begin, look_at

INPUTS = ("snapshot",)
Params = params.ScanParams

LOG_SECONDS = 10
BATCH = 1_000  # images whose rows are written at a time
GROUP = 16  # images that a worker takes on at a time
FAR_GROUP = 64  # the same where they come over a network: for its first ones a worker waits
# A picture's memory is kept for the next one: a PNG's decode would ask for a thousand new pages, each to be cleared.
KEEPING = {"MALLOC_MMAP_THRESHOLD_": str(32 << 20), "MALLOC_TRIM_THRESHOLD_": str(64 << 20)}
WORTH_A_PROCESS = 1_000  # images for each worker: a process takes seconds to start


#: Types of the columns that a row adds to the snapshot's.
COLUMNS = {
    "status": "str", "error": "str", "note": "str", "width": "int32", "height": "int32", "format": "str",
    "mode": "str", "frames": "int32", "orientation": "int8", "has_alpha": "bool", "sha256": "str", "phash": "str",
    "brightness": "float32", "sharpness": "float32", "hue": "float32", "lightness": "float32", "saturation": "float32",
}  # fmt: skip

#: A row as it is remembered.
SCHEMA = pa.schema(
    [
        *((name, pa.string() if kind == "str" else pa.type_for_alias(kind)) for name, kind in COLUMNS.items()),
        ("features", pa.binary()),
        ("jpeg", pa.binary()),
        ("identity", pa.string()),
        ("place", pa.uint64()),
    ]
)


def run(inputs: Inputs, params: Params, out: Output) -> None:
    """Scan one shard of the snapshot.

    Raises:
        StoreError: the data set or the artifact store can't be read or written; or a tenth of the images is gone.
    """
    snapshot = inputs.one("snapshot")
    dataset = open_store(snapshot.json("snapshot.json")["dataset"])
    images = snapshot.table("images.parquet")
    places = place_of(images["key"])
    mine = places % np.uint64(params.shards) == params.shard
    images, places = images[mine].reset_index(drop=True), places[mine]
    identities = pa.array(_identities(images, dataset.uri, params.max_megapixels), pa.string())
    folder = f"scan/{code_digest('scan')}/{hashlib.sha256(dataset.uri.encode()).hexdigest()[:16]}"
    memory = Remembered(out.store, folder, SCHEMA, params.shard, params.shards, lambda text: out.log(f"scan: {text}"))
    known = memory.recall(identities)
    at = pc.index_in(identities, known["identity"])
    is_new = at.is_null().to_numpy(zero_copy_only=False)

    looked = _look_at_all(dataset, images, np.flatnonzero(is_new), params, out)
    lost: list[str] = []
    passing: list[str] = []
    unreadable = 0
    with Tables(out) as tables, ThreadPoolExecutor(1) as pool:
        writing: Future[None] | None = None
        for start in range(0, len(images) or 1, BATCH):  # once at least: there are tables of no image, too
            batch = slice(start, start + BATCH)
            new = start + np.flatnonzero(is_new[batch])
            found = _row_table(list(islice(looked, len(new))), identities.take(pa.array(new)), places[new])
            rows = pa.concat_tables([known.take(at[batch].drop_null()), found])
            rows = rows.take(pc.index_in(identities[batch], rows["identity"]))
            is_passing = pc.is_in(found["error"], pa.array(PASSING))
            lost += _keys(images, new, pc.is_in(found["error"], pa.array(LOST)))
            passing += _keys(images, new, is_passing)
            unreadable += pc.sum(pc.not_equal(rows["status"], "ok")).as_py() or 0
            if writing:
                writing.result()
            # Beside the looking, which goes on meanwhile; never more than one batch waits.
            writing = pool.submit(_write, tables, memory, images[batch], rows, found.filter(pc.invert(is_passing)))
        if writing:
            writing.result()
    if len(lost) > max(10, len(images) / 10):
        raise StoreError(
            f"{len(lost):,} of {len(images):,} images are gone or were changed since the snapshot, such as "
            f"{lost[0]!r}. If {dataset.uri} is whole and at rest, run again with a new snapshot."
        )
    if passing:  # a share that is away for a moment, or an archive, must not leave them out for good
        out.passing = {"lost": hashlib.sha256(canonical(sorted(passing))).hexdigest()}
    decoded = int(is_new.sum())
    out.metrics |= {
        "images": len(images),
        "unreadable": unreadable,
        "decoded": decoded,
        "remembered": len(images) - decoded,
    }


def _identities(images: pd.DataFrame, dataset: str, max_megapixels: float) -> Iterator[str]:
    """By what each image's row is remembered. The limit decides about an image as its content does."""
    columns = [images[name].tolist() for name in ("key", "bytes", "etag", "version")]
    for key, size, etag, version in zip(*columns, strict=True):
        known_by = canonical([dataset, key, _given(version) or etag, size, max_megapixels])
        yield hashlib.sha256(known_by).hexdigest()[:32]


def _keys(images: pd.DataFrame, rows: npt.NDArray[np.int64], chosen: pa.ChunkedArray) -> list[str]:
    return [str(key) for key in images["key"].iloc[rows[chosen.to_numpy().astype(bool)]]]


def _given(version: Any) -> str | None:
    return version if isinstance(version, str) else None


def _look_at_all(
    store: Store, images: pd.DataFrame, rows: npt.NDArray[np.int64], params: Params, out: Output
) -> Iterator[Row]:
    """What is seen in these rows' objects, in their order."""
    columns = [images[name].iloc[rows] for name in ("key", "bytes", "etag", "version", "modified")]
    listed = (
        Listed(key, size, etag, _given(version), modified.to_pydatetime())
        for key, size, etag, version, modified in zip(*columns, strict=True)
    )
    near = store.local_path("") is not None
    groups = iter(lambda: list(islice(listed, GROUP if near else FAR_GROUP)), [])
    done, started, logged = 0, 0.0, 0.0
    with _workers(len(rows)) as pool:
        # Over a network most of the time is waiting.
        threads = 1 if near else max(1, store.threads // settings().threads)
        look = partial(look_at, store.uri, threads, int(params.max_megapixels * 1e6))
        for seen in ahead(pool, look, groups, 4 * settings().threads):
            yield from seen
            now = time.monotonic()
            if not done:  # what was imported and compiled before the first ones tells nothing of the others
                started = logged = now
            done += len(seen)
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
    # Loky's processes are new ones, so no thread of this one matters, and they don't import this one's main module: in
    # an Airflow task that is Airflow, which wants its database.
    context = loky.backend.get_context("loky")
    processes = loky.ProcessPoolExecutor(
        count, context=context, initializer=begin, initargs=(os.getpid(),), env=KEEPING
    )
    try:
        yield processes
    except BrokenProcessPool as error:
        raise StoreError(
            "A process of the scan was ended from outside, likely since the machine has too little memory. What was "
            "seen is remembered: run again. Lower GESSO_WORKERS where it happens again."
        ) from error
    finally:
        processes.shutdown(kill_workers=True)  # they hold nothing, and take a third of a second to end in order


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

    def write(self, images: pd.DataFrame, rows: pa.Table) -> None:
        """Append what was seen in these images of the snapshot: rows of SCHEMA, in the same order."""
        seen = rows.select(list(COLUMNS)).to_pandas().astype(COLUMNS)
        scanned = pd.concat([images.reset_index(drop=True), seen], axis=1)
        self._append("scan.parquet", pa.Table.from_pandas(scanned, preserve_index=False))
        rows = rows.append_column("key", pa.array(images["key"], pa.string())).filter(pc.equal(rows["status"], "ok"))
        values = np.frombuffer(b"".join(rows["features"].to_pylist()), np.float32)
        by_name = values.reshape(len(rows), len(FEATURE_NAMES)).T.copy()
        features = {"key": rows["key"]} | dict(zip(FEATURE_NAMES, map(pa.array, by_name), strict=True))
        self._append("features.parquet", pa.table(features))
        self._append("thumbnails.parquet", rows.select(["key", "jpeg"]))

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


def _write(tables: Tables, memory: Remembered, images: pd.DataFrame, rows: pa.Table, new: pa.Table) -> None:
    tables.write(images, rows)
    memory.keep(new)


def _row_table(rows: list[Row], identities: pa.Array, places: npt.NDArray[np.uint64]) -> pa.Table:
    seen = {name: [row[at] for row in rows] for at, name in enumerate(Row._fields)}
    return pa.table({**seen, "identity": identities, "place": places}, schema=SCHEMA)
