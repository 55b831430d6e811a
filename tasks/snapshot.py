"""List the data set as of an instant.

Every image is `class/…/name.ext` below a folder or an s3://bucket/prefix. In a bucket that keeps versions the list is
exact: the objects that were current at that instant, deleted ones included. Elsewhere it goes by modification time, and
the snapshot says that it does. Hidden and system files, files outside a class folder and files that are no images by
their extension are ignored and counted. A link that leads nowhere is listed: its image is out of reach. A snapshot is
addressed by what it lists, so an unchanged data set gives the same snapshot at any instant: its count of ignored files
is of the run that made it, and the log has each run's own.

Writes:
    images.parquet  key, class, bytes, etag, version, modified; sorted by key
    snapshot.json   dataset, versioned, note, images, bytes, newest, classes {name: images}, ignored {reason: files}
"""

import hashlib
from array import array
from collections import Counter
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pandas as pd

from tasks.core import params
from tasks.core.artifacts import Inputs, Output, canonical
from tasks.core.errors import DataError, Denied, NotFound, ParamsError
from tasks.core.settings import settings
from tasks.core.store import Object, Store, open_store, path_within

INPUTS: tuple[str, ...] = ()
Params = params.SnapshotParams

EXTENSIONS = frozenset({"jpg", "jpeg", "jpe", "jfif", "png", "gif", "webp", "bmp", "dib", "tif", "tiff"})
SYSTEM_NAMES = frozenset({"thumbs.db", "ehthumbs.db", "desktop.ini", "__macosx", "@eadir", "$recycle.bin"})
NO_VERSIONS = (
    "This data set keeps no versions: as of an earlier instant it is listed by modification time, and images "
    "overwritten or deleted since are not seen as they were."
)
REASONS = 20  # different reasons are counted apart up to here: a file's extension can be anything


@dataclass
class Listing:
    """The data set's images at an instant, and what beside them was left out."""

    dataset: str
    versioned: bool
    images: pd.DataFrame
    ignored: dict[str, int]

    def digest(self) -> str:
        """SHA-256 over key, version (or ETag) and size of each image."""
        digest = hashlib.sha256()
        columns = (self.images[name] for name in ("key", "version", "etag", "bytes"))
        for key, version, etag, size in zip(*columns, strict=True):
            digest.update(canonical([key, version if isinstance(version, str) else etag, size]))
        return digest.hexdigest()


def observe(inputs: Inputs, params: Params, out: Output) -> tuple[dict[str, Any], Listing]:
    """List the data set. Its address and the list's digest go into the artifact's key.

    Raises:
        DataError: no such folder or bucket, no permission, no images, or images of one class only.
        ParamsError: the artifact store is in the data set.
    """
    listing = take(params.dataset or settings().dataset_uri, params.as_of, out)
    return {"dataset": listing.dataset, "listing": listing.digest()}, listing


def run(inputs: Inputs, params: Params, out: Output) -> None:
    """Write what `observe` listed."""
    listing: Listing = out.observed
    images = listing.images
    classes = images["class"].value_counts().sort_index()
    size = int(images["bytes"].sum())
    out.table("images.parquet", images)
    out.json(
        "snapshot.json",
        {
            "dataset": listing.dataset,
            "versioned": listing.versioned,
            "note": "" if listing.versioned else NO_VERSIONS,
            "images": len(images),
            "bytes": size,
            "newest": images["modified"].max().isoformat(),
            "classes": {str(name): int(count) for name, count in classes.items()},
            "ignored": listing.ignored,
        },
    )
    ignored = sum(listing.ignored.values())
    out.metrics |= {
        "images": len(images),
        "classes": len(classes),
        "bytes": size,
        "ignored": ignored,
        "versioned": listing.versioned,
    }


def take(dataset: str, as_of: datetime | None, out: Output) -> Listing:
    """The data set at `dataset` (a folder or an S3 URI) as of an instant (None: now). Raises as `observe`."""
    store = _open(dataset)
    check_apart(store, out.store)
    try:
        versions = store.list_as_of("", as_of or datetime.max.replace(tzinfo=UTC))
        columns = _Columns(newest=as_of if versions is None else None)
        listed = store.list(broken_links=True) if versions is None else versions
        for number, found in enumerate(listed, start=1):
            columns.add(found)
            if number % 100_000 == 0:
                out.log(f"snapshot: {number:,} objects listed")
    except (NotFound, Denied) as error:
        raise DataError(str(error)) from error
    ignored = dict(sorted(columns.ignored.items()))
    images = columns.frame()
    counted = {**ignored, "newer than that": columns.newer}
    left_out = "; ".join(f"{count:,} {reason}" for reason, count in counted.items() if count) or "nothing"
    when = f" as of {as_of.isoformat()}" if as_of else ""
    if images.empty:
        raise DataError(f"There are no images below {store.uri}{when}. Expected class/name.jpg. Ignored: {left_out}.")
    if images["class"].nunique() == 1:
        raise DataError(
            f"There is only one class below {store.uri}{when}: {images['class'].iloc[0]!r}, {len(images):,} images. A "
            f"classifier needs two or more: a folder each, class/name.jpg. Ignored: {left_out}."
        )
    out.log(f"snapshot: {len(images):,} images; ignored: {left_out}")
    return Listing(store.uri, versions is not None, images, ignored)


def check_apart(dataset: Store, store: Store) -> None:
    """See to it that no artifact is taken for an image of the data set.

    Raises:
        ParamsError: the artifact store is in the data set, where it is listed.
    """
    path = path_within(dataset, store)
    if path is None or why_ignored(f"{path}/artifacts/picture.png".lstrip("/")) is not None:
        return
    where = "is the data set's own place" if not path else f"lies in the data set {dataset.uri}"
    raise ParamsError(
        f"The artifact store {store.uri} {where}: Gesso's own pictures would be listed as images of a class. Move the "
        f"store (GESSO_STORE, GESSO_HOME or --store) elsewhere or below a hidden name such as .gesso, or move the data "
        f"set."
    )


def why_ignored(key: str) -> str | None:
    """Why an object is not one of the data set's images; None if it is one."""
    try:
        key.encode()
    except UnicodeEncodeError:
        return "with a name that is not UTF-8"
    *folders, name = key.split("/")
    if not name:
        return "folder markers"
    if any(_is_hidden(part) for part in (*folders, name)):
        return "hidden or system files"
    if not folders or not folders[0]:
        return "not in a class folder"
    _, dot, extension = name.rpartition(".")
    if not dot or extension.lower() not in EXTENSIONS:
        return f"not images (.{extension.lower()[:10]})" if dot else "not images (no extension)"
    return None


def _is_hidden(part: str) -> bool:
    # In a bucket "." and ".." are names like any other.
    return (part.startswith(".") and part not in (".", "..")) or part.lower() in SYSTEM_NAMES


def _open(dataset: str) -> Store:
    store = open_store(dataset)
    folder = store.local_path("")
    if folder is None:
        return store
    try:
        if folder.is_dir():
            return open_store(folder.resolve())  # one address, however the folder was named
    except PermissionError as error:
        raise DataError(f"No permission to read the data set's folder {folder}.") from error
    what = "is a file, not a folder" if folder.exists() else "does not exist"
    raise DataError(f"The data set's folder {folder} {what}. Expected a folder that holds class/name.jpg.")


@dataclass
class _Columns:
    """The table's columns while they grow: a million images as rows of objects would take a gigabyte."""

    newest: datetime | None  # what is newer is left out: the data set is listed as of an instant, but keeps no versions
    newer: int = 0
    key: list[str] = field(default_factory=list)
    size: "array[int]" = field(default_factory=lambda: array("q"))
    etag: list[str] = field(default_factory=list)
    version: list[str | None] = field(default_factory=list)
    modified: "array[int]" = field(default_factory=lambda: array("q"))  # microseconds since 1970
    ignored: Counter[str] = field(default_factory=Counter)

    def add(self, found: Object) -> None:
        if self.newest is not None and found.modified > self.newest:
            self.newer += 1
            return
        reason = why_ignored(found.key)
        if reason is not None:
            many = len(self.ignored) >= REASONS and reason not in self.ignored
            self.ignored["not images (others)" if many else reason] += 1
            return
        self.key.append(found.key)
        self.size.append(found.size)
        self.etag.append(found.etag)
        self.version.append(found.version)
        self.modified.append(round(found.modified.timestamp() * 1e6))

    def frame(self) -> pd.DataFrame:
        modified = np.array(self.modified, np.int64).astype("datetime64[us]")
        frame = pd.DataFrame(
            {
                "key": pd.array(self.key, "str"),
                "class": pd.array([key.partition("/")[0] for key in self.key], "str"),
                "bytes": np.array(self.size, np.int64),
                "etag": pd.array(self.etag, "str"),
                "version": pd.array(self.version, "str"),
                "modified": pd.DatetimeIndex(modified).tz_localize("UTC"),
            }
        )
        return frame.sort_values("key", ignore_index=True)
