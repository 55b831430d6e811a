"""What both kinds of store share: how a listing shows an object, and many objects at a time by threads."""

import re
import uuid
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from queue import Empty, Full, Queue
from threading import Event
from typing import TypeVar

Item = TypeVar("Item")
Result = TypeVar("Result")

#: Names of files and objects that a write makes on its way and that a killed process leaves behind.
TEMPORARY = re.compile(r"\.[0-9a-f]{32}\.tmp")


def temporary_name() -> str:
    """A new name that `TEMPORARY` matches."""
    return f".{uuid.uuid4().hex}.tmp"


@dataclass(frozen=True, slots=True)
class Object:
    """An object as a listing shows it."""

    key: str
    size: int  # bytes
    etag: str  # changes when the object does; not comparable between stores
    modified: datetime  # UTC
    version: str | None = None  # the version id, in a bucket that keeps versions


def in_threads(work: Callable[[Item], Result], items: Iterable[Item], threads: int) -> Iterator[Result]:
    """`map` by threads, in order, at most `4 * threads` items ahead of the reader, so that nothing piles up.

    The first error ends it: what has not begun is left undone.
    """
    pool = ThreadPoolExecutor(threads)
    try:
        yield from ahead(pool, work, items, 4 * threads)
    finally:
        pool.shutdown(cancel_futures=True)


def ahead(pool: Executor, work: Callable[[Item], Result], items: Iterable[Item], most: int) -> Iterator[Result]:
    """`map` by a pool, in order, at most so many items ahead of the reader."""
    waiting: deque[Future[Result]] = deque()
    try:
        for item in items:
            waiting.append(pool.submit(work, item))
            if len(waiting) >= most:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        for future in waiting:
            future.cancel()


def interleaved(sources: Iterable[Iterator[Item]], threads: int, batch: int = 1000) -> Iterator[Item]:
    """The items of all sources, each read by a thread of its own, as they come; of each at most a batch lies ready.

    The first error ends it: the other sources are left where they are.
    """
    ready: Queue[list[Item]] = Queue(threads)
    stopped = Event()

    def read(source: Iterator[Item]) -> None:
        while not stopped.is_set() and (items := list(islice(source, batch))):
            while not stopped.is_set():
                with suppress(Full):
                    ready.put(items, timeout=0.1)
                    break

    pool = ThreadPoolExecutor(threads)
    try:
        reading = {pool.submit(read, source) for source in sources}
        while reading or not ready.empty():
            with suppress(Empty):
                yield from ready.get(timeout=0.05)
            for done in [each for each in reading if each.done()]:
                reading.remove(done)
                done.result()
    finally:
        stopped.set()
        pool.shutdown(cancel_futures=True)


class Bulk(ABC):
    """Many objects at a time, for a store that can do one. Inputs may be endless: they are read as they are used."""

    uri: str
    threads: int

    @abstractmethod
    def list(self, prefix: str = "") -> Iterator[Object]: ...

    @abstractmethod
    def get(self, key: str, version: str | None = None) -> bytes: ...

    @abstractmethod
    def put(self, key: str, data: bytes) -> None: ...

    @abstractmethod
    def delete(self, key: str) -> None: ...

    @abstractmethod
    def upload(self, path: Path, key: str) -> None: ...

    @abstractmethod
    def copy(self, source: str, key: str) -> None: ...

    @abstractmethod
    def download(self, key: str, path: Path) -> None: ...

    def list_many(self, prefixes: Iterable[str]) -> Iterator[Object]:
        for found in in_threads(lambda prefix: [*self.list(prefix)], prefixes, self.threads):
            yield from found

    def get_many(self, keys: Iterable[str]) -> Iterator[tuple[str, bytes]]:
        return in_threads(lambda key: (key, self.get(key)), keys, self.threads)

    def put_many(self, objects: Iterable[tuple[str, bytes]]) -> None:
        self._all(lambda each: self.put(*each), objects)

    def delete_many(self, keys: Iterable[str]) -> None:
        self._all(self.delete, keys)

    def upload_many(self, files: Iterable[tuple[Path, str]]) -> None:
        self._all(lambda each: self.upload(*each), files)

    def copy_many(self, pairs: Iterable[tuple[str, str]]) -> None:
        self._all(lambda each: self.copy(*each), pairs)

    def download_many(self, files: Iterable[tuple[str, Path]]) -> None:
        self._all(lambda each: self.download(*each), files)

    def _all(self, work: Callable[[Item], None], items: Iterable[Item]) -> None:
        deque(in_threads(work, items, self.threads), maxlen=0)
