"""One interface to the two places data can be: a folder, or a bucket (S3 and what speaks its protocol).

    store = open_store("s3://gesso/artifacts")     # or a folder
    store.put("a/b.json", b"{}")                   # whole or not at all
    store.create("a/b.json", b"{}")                # False: somebody else's is there
    data, etag = store.get_with_etag("a/b.json")
    store.replace("a/b.json", b"[]", etag)         # False: it was changed meanwhile
    store.put_many(other.get_many(keys))           # by threads, a bounded number of objects in memory

Keys are relative to the store's root, with "/" between their parts. Every write is atomic: a reader sees the old
object or the new one. `get` and `put` hold an object in memory; files of any size go by `upload` and `download`.

Errors are `StoreError`s that say which object and what to do. What may pass (5xx, throttling, a broken connection) has
been tried again by then, with jittered pauses.
"""

import os
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path
from typing import Protocol

from tasks.core.errors import ParamsError
from tasks.core.local_store import LocalStore
from tasks.core.objects import Object, in_threads
from tasks.core.s3_store import S3Store

__all__ = ["LocalStore", "Object", "S3Store", "Store", "in_threads", "open_store", "path_within"]


class Store(Protocol):
    """What Gesso asks of a place for data."""

    uri: str
    threads: int
    """How many requests at a time it is good for."""

    def check(self) -> None:
        """Find out whether artifacts can be kept here: whether of several writers of one object just one wins.

        `create` and `replace` see to it by themselves; a caller with hours of work before it asks first.

        Raises:
            Unusable: they can't; says why.
        """

    def list(self, prefix: str = "", broken_links: bool = False) -> Iterator[Object]:
        """The objects whose key begins with `prefix`, in no promised order.

        A folder's links that lead nowhere are no objects of a store, but a data set's images may be out of reach behind
        them: with `broken_links` they are listed too, by their own size and time. To read one raises `NotFound`.
        """

    def list_many(self, prefixes: Iterable[str]) -> Iterator[Object]:
        """`list` of each prefix, by threads."""

    def list_as_of(self, prefix: str, when: datetime) -> Iterator[Object] | None:
        """The objects as they were at `when`, deleted ones included; None where the store keeps no versions."""

    def leftovers(self) -> Iterator[Object]:
        """What killed writers left behind: temporary files, unfinished multipart uploads. `list` shows none of them."""

    def remove_leftover(self, leftover: Object) -> None:
        """Remove one of them; no error where it is gone."""

    def get(self, key: str, version: str | None = None) -> bytes:
        """The object's bytes. Raises `NotFound`, or `Archived`."""

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        """Each key and the object's bytes, in order, by threads. Raises `NotFound`."""

    def get_with_etag(self, key: str) -> tuple[bytes, str]:
        """The object's bytes and the tag that `replace` wants."""

    def exists(self, key: str) -> bool:
        """Whether the object is there."""

    def put(self, key: str, data: bytes) -> None:
        """Write the object, over one that is there."""

    def put_many(self, objects: Iterable[tuple[str, bytes]]) -> None:
        """`put` each (key, bytes), by threads."""

    def create(self, key: str, data: bytes) -> bool:
        """Write the object unless one is there; whether this call's bytes are the ones that are there now."""

    def replace(self, key: str, data: bytes, etag: str | None) -> bool:
        """Write the object if it still has this tag (None: if it isn't there); whether it was written."""

    def delete(self, key: str) -> None:
        """Remove the object; no error where it isn't there."""

    def delete_many(self, keys: Iterable[str]) -> None:
        """`delete` each, by threads."""

    def upload(self, path: Path, key: str) -> None:
        """Move a local file into the store (it may be gone from `path` afterwards)."""

    def upload_many(self, files: Iterable[tuple[Path, str]]) -> None:
        """`upload` each (path, key), by threads."""

    def copy(self, source: str, key: str) -> None:
        """Write the object that `source` is under another key, too, without reading it (5 GB at most). A folder's two
        keys may be one file on the disk. Raises `NotFound`.
        """

    def copy_many(self, pairs: Iterable[tuple[str, str]]) -> None:
        """`copy` each (source, key), by threads."""

    def download(self, key: str, path: Path) -> None:
        """Copy the object into a local file, which appears whole or not at all."""

    def download_many(self, files: Iterable[tuple[str, Path]]) -> None:
        """`download` each (key, path), by threads."""

    def local_path(self, key: str) -> Path | None:
        """The object's file, where the store is a folder."""


def open_store(uri: str | os.PathLike[str]) -> Store:
    """The store at a folder's path, a file:// URI or an s3://bucket/prefix URI.

    Raises:
        ParamsError: the URI has another scheme, or no bucket.
    """
    text = str(uri)
    scheme, separator, rest = text.partition("://")
    if not separator:
        return LocalStore(Path(text).absolute())
    if scheme == "file":
        return LocalStore(Path("/" + rest.lstrip("/")))
    if scheme == "s3":
        bucket, _, prefix = rest.partition("/")
        if not bucket:
            raise ParamsError(f"{text!r} names no bucket; expected s3://bucket/prefix.")
        return S3Store(bucket, prefix.strip("/"))
    raise ParamsError(f"{text!r} can't be opened: expected a folder, file:///… or s3://bucket/prefix.")


def path_within(outer: Store, store: Store) -> str | None:
    """The path from `outer` to `store`, links resolved; "" where they are one place, None where it is elsewhere."""
    start, address = _address(outer), _address(store)
    return address[len(start) :].rstrip("/") if address.startswith(start) else None


def _address(store: Store) -> str:
    folder = store.local_path("")
    return (store.uri if folder is None else str(folder.resolve())).rstrip("/") + "/"
