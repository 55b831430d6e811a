"""Look at every image of the snapshot once, and write down all that the later steps want to know of it.

Each file is read and decoded a single time for its size, hashes, colours, features and thumbnail. An image that can't
be opened is a row like any other, with the reason. What was seen is remembered by each object's identity (data set,
key, version or ETag, size), so the next run decodes only what is new. A large snapshot is scanned in shards: the images
whose place (`core/remembered.py`) leaves the remainder `shard` when it is divided by `shards`.

Writes, sorted by key:
    scan.parquet        the snapshot's columns and status, error, note, width, height, format, mode, frames,
                        orientation, has_alpha, sha256, phash, brightness, sharpness, hue, lightness, saturation
    features.parquet    key and the features of `vision/features.py`; readable images only
    thumbnails.parquet  key and jpeg (longest side 112 pixels); readable images only
"""

import hashlib
import time
from collections.abc import Collection, Iterator
from dataclasses import dataclass, fields
from datetime import UTC, datetime

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
from tasks.core.remembered import Remembered, place_of
from tasks.core.settings import settings
from tasks.core.step import code_digest
from tasks.core.store import Store, in_threads, open_store
from tasks.vision.features import FEATURE_NAMES, FEATURE_SIZE, describe
from tasks.vision.images import Pixels, open_image, perceptual_hash, shrink, thumbnail_jpeg

INPUTS = ("snapshot",)
Params = params.ScanParams

THUMBNAIL_SIDE = 112  # pixels
LOG_SECONDS = 10
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

    new = pc.index_in(identities, known["identity"]).is_null().to_numpy(zero_copy_only=False).nonzero()[0]
    listed = list(_listed(images.iloc[new]))
    found = _row_table(list(_look_at_all(dataset, listed, params, out)), identities.take(pa.array(new)), places[new])
    lost = pc.is_in(found["error"], pa.array(LOST))
    if (many := pc.sum(lost).as_py() or 0) > max(10, len(images) / 10):
        raise StoreError(
            f"{many:,} of {len(images):,} images are gone or were changed since the snapshot, such as "
            f"{listed[pc.index(lost, True).as_py()].key!r}. If {dataset.uri} is whole and at rest, run again with a "
            f"new snapshot."
        )
    memory.keep(found.filter(pc.invert(lost)))

    rows = pa.concat_tables([known, found])
    rows = rows.take(pc.index_in(identities, rows["identity"]))
    seen = rows.select(list(COLUMNS)).to_pandas().astype(COLUMNS)
    out.table("scan.parquet", pd.concat([images, seen], axis=1))
    readable = pc.equal(rows["status"], "ok")
    rows = rows.append_column("key", pa.array(images["key"], pa.string())).filter(readable)
    out.table("features.parquet", _feature_table(rows))
    # In groups, so that whoever wants a few thumbnails doesn't read them all.
    thumbnails = rows.select(["key", "jpeg"])
    pq.write_table(thumbnails, out.path("thumbnails.parquet"), compression="zstd", row_group_size=1_000)
    out.metrics |= {
        "images": len(images),
        "unreadable": len(images) - len(rows),
        "decoded": len(new),
        "remembered": len(images) - len(new),
    }


def look(data: bytes, max_pixels: int) -> Row:
    """Decode a file and describe what is seen; never raises for what the file holds."""
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        image = open_image(data, max_pixels=max_pixels, min_side=FEATURE_SIZE)
    except DataError as error:
        return Row("unreadable", str(error), sha256=sha256)
    small = shrink(image.pixels, FEATURE_SIZE)
    grey = cv2.cvtColor(small, cv2.COLOR_RGB2GRAY)
    hue, lightness, saturation = mean_colour(small)
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
        phash=perceptual_hash(image.pixels),
        brightness=float(grey.mean()),
        sharpness=float(cv2.Laplacian(grey, cv2.CV_32F).var()),
        hue=hue,
        lightness=lightness,
        saturation=saturation,
        features=describe(small).tobytes(),
        jpeg=thumbnail_jpeg(image.pixels, THUMBNAIL_SIDE),
    )


def mean_colour(rgb: Pixels) -> tuple[float, float, float]:
    """Mean hue in degrees (circular, weighted by chroma: a grey pixel has no hue), lightness and saturation in 0..1."""
    hue, lightness, saturation = cv2.split(cv2.cvtColor(rgb, cv2.COLOR_RGB2HLS_FULL))
    chroma = saturation * (1 - np.abs(lightness / 127.5 - 1))
    weights = np.bincount(hue.ravel(), chroma.ravel(), minlength=256)
    centre = weights @ np.exp(2j * np.pi * np.arange(256) / 256)
    return float(np.degrees(np.angle(centre)) % 360), float(lightness.mean() / 255), float(saturation.mean() / 255)


def max_bytes(params: Params) -> int:
    """More bytes than any sensible file with the allowed number of pixels: 8 for each, and some for what is beside."""
    return int(params.max_megapixels * 8e6) + (16 << 20)


def _identities(images: pd.DataFrame, dataset: str, max_megapixels: float) -> Iterator[str]:
    """By what each image's row is remembered. The limit decides about an image as its content does."""
    columns = [images[name].tolist() for name in ("key", "bytes", "etag", "version")]
    for key, size, etag, version in zip(*columns, strict=True):
        known_by = canonical([dataset, key, version if isinstance(version, str) else etag, size, max_megapixels])
        yield hashlib.sha256(known_by).hexdigest()[:32]


def _listed(images: pd.DataFrame) -> Iterator[Listed]:
    columns = [images[name] for name in ("key", "bytes", "etag", "version", "modified")]
    for key, size, etag, version, modified in zip(*columns, strict=True):
        yield Listed(key, size, etag, version if isinstance(version, str) else None, modified.to_pydatetime())


def _look_at_all(store: Store, listed: Collection[Listed], params: Params, out: Output) -> Iterator[Row]:
    """Rows of the objects, in their order, by threads: reading, hashing and decoding release the GIL."""
    cv2.setNumThreads(1)  # each thread works on an image of its own
    # Over a network most of the time is waiting.
    threads = settings().threads if store.local_path("") else store.threads
    started = logged = time.monotonic()
    rows = in_threads(lambda each: _look_at(store, each, params), listed, threads)
    for done, row in enumerate(rows, start=1):
        yield row
        now = time.monotonic()
        if now - logged >= LOG_SECONDS:
            logged, rate = now, done / (now - started)
            left = (len(listed) - done) / rate
            out.log(f"scan: {done:,} of {len(listed):,} images, {rate:,.0f} images/s, {left:,.0f} s left")


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


def _row_table(rows: list[Row], identities: pa.Array, places: npt.NDArray[np.uint64]) -> pa.Table:
    seen = {field.name: [getattr(row, field.name) for row in rows] for field in fields(Row)}
    return pa.table({**seen, "identity": identities, "place": places}, schema=SCHEMA)


def _feature_table(rows: pa.Table) -> pd.DataFrame:
    values = np.frombuffer(b"".join(rows["features"].to_pylist()), np.float32).reshape(len(rows), len(FEATURE_NAMES))
    table = pd.DataFrame(values, columns=list(FEATURE_NAMES))
    table.insert(0, "key", rows["key"].to_pandas().astype("str"))
    return table
