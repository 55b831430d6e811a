"""What one look at an image tells: a row of the tables that `scan` writes.

Its processes start with this module, so it imports no more than a look needs.
"""

import hashlib
import math
import os
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cache, partial
from typing import NamedTuple

import cv2
import numpy as np
import numpy.typing as npt

from tasks.core.errors import Archived, DataError, NotFound
from tasks.core.objects import ahead
from tasks.core.store import Store, open_store
from tasks.vision.features import FEATURE_NAMES, FEATURE_SIZE, describe, fit
from tasks.vision.images import Image, open_image, perceptual_hash, thumbnail_jpeg

#: Errors of objects that are not what the snapshot lists.
GONE, CHANGED = LOST = ("gone since the snapshot", "changed since the snapshot")
ARCHIVED = "archived: restore it, or take it out of the data set"
#: Errors that may pass while the listing stays the same: whoever has one of these is looked at again by the next run.
PASSING = (*LOST, ARCHIVED)
_COLOUR = [FEATURE_NAMES.index(n) for n in ("hue_mean_cosine", "hue_mean_sine", "lightness_mean", "saturation_mean")]


@dataclass(frozen=True, slots=True)
class Listed:
    """An image of the snapshot, to be looked at."""

    key: str
    bytes: int
    etag: str
    version: str | None
    modified: datetime


class Row(NamedTuple):
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


@dataclass(frozen=True, slots=True)
class _Seen:
    """A decoded image that is still to be described."""

    image: Image  # its pixels scaled down to FEATURE_SIZE
    sha256: str


def look_at(uri: str, threads: int, max_pixels: int, group: list[Listed]) -> list[Row]:
    """What is seen in these objects of the data set at `uri`, in their order; they are read by so many threads."""
    cv2.setNumThreads(1)  # all cores are busy with an image each
    store = _store(uri)
    look = partial(_opened, store, max_pixels)
    if threads > 1:  # each is described while others are on their way
        return [_described(seen) for seen in ahead(_readers(threads), look, group, len(group))]
    # First all are decoded, then all described: the code and the tables of either stay in the processor's cache.
    return [_described(seen) for seen in [look(each) for each in group]]


def _decoded(data: bytes, max_pixels: int) -> Row | _Seen:
    """Never raises for what a file holds."""
    sha256 = hashlib.sha256(data).hexdigest()
    try:
        image = open_image(data, max_pixels=max_pixels, min_side=FEATURE_SIZE, reduced=False)
    except DataError as error:
        return Row("unreadable", str(error), sha256=sha256)
    small = fit(image.pixels)
    return _Seen(replace(image, pixels=small), sha256)


def _described(seen: Row | _Seen) -> Row:
    if isinstance(seen, Row):
        return seen
    image, small = seen.image, seen.image.pixels
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
        sha256=seen.sha256,
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


def max_bytes(max_pixels: int) -> int:
    """More bytes than any sensible file with the allowed number of pixels: 8 for each, and some for what is beside."""
    return 8 * max_pixels + (16 << 20)


@cache
def _store(uri: str) -> Store:
    return open_store(uri)


@cache
def _readers(threads: int) -> ThreadPoolExecutor:
    return ThreadPoolExecutor(threads)


def _opened(store: Store, max_pixels: int, each: Listed) -> Row | _Seen:
    if each.bytes > max_bytes(max_pixels):
        return Row("unreadable", f"{each.bytes / 1e6:,.0f} MB, more than an image of the allowed size can have")
    try:
        data, same = _read(store, each)
    except (NotFound, FileNotFoundError):  # the latter between reading it and asking for its time
        return Row("unreadable", GONE)
    except Archived:
        return Row("unreadable", ARCHIVED)
    if not same or len(data) != each.bytes:
        return Row("unreadable", CHANGED)
    return _decoded(data, max_pixels)


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


def begin(parent: int) -> None:
    """What a worker does first."""
    # Numba loads them where they are, for linear algebra and C's functions: a quarter of a worker's start.
    for unused in ("scipy", "cffi"):
        sys.modules.setdefault(unused, None)  # type: ignore[arg-type]  # how Python says that there is no such module

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(1)
        os._exit(1)  # else it would wait for work for ever

    threading.Thread(target=watch, daemon=True).start()
