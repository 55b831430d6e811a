"""A folder as a store."""

import errno
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from tasks.core.errors import Denied, NotFound, ParamsError, StoreError, Unusable
from tasks.core.objects import TEMPORARY, Bulk, Object, temporary_name

#: What the operating system says of a path on which a link is broken or circular, or leads through a file.
NOWHERE = (errno.ENOENT, errno.ENOTDIR, errno.ELOOP)


@contextmanager
def explained(what: str) -> Iterator[None]:
    """Turn the operating system's errors into sentences."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"{what}: there is no such file ({error.filename}).") from error
    except OSError as error:
        if error.errno in NOWHERE:
            raise NotFound(f"{what}: there is no such file ({error.filename}: {error.strerror}).") from error
        if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
            raise Denied(f"{what}: no permission ({error.filename}). Give this user access to it.") from error
        if error.errno in (errno.ENOSPC, errno.EDQUOT):
            raise StoreError(f"{what}: the disk is full. Nothing was lost; make room and run again.") from error
        raise StoreError(f"{what}: {error}") from error


def _etag(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def _facts(entry: os.DirEntry[str]) -> os.stat_result | None:
    """What the entry is, a link being what it leads to, or itself where that is nowhere; None if it is gone by now."""
    try:
        return entry.stat()
    except OSError as error:
        if error.errno not in NOWHERE:
            raise
    with suppress(FileNotFoundError):
        return entry.stat(follow_symlinks=False)
    return None


class LocalStore(Bulk):
    """A folder as a store. Its methods are those of `tasks.core.store.Store`."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = str(root)
        self.threads = 2 * len(os.sched_getaffinity(0))

    def _path(self, key: str) -> Path:
        if key.startswith("/") or ".." in key.split("/"):
            raise ParamsError(f"{key!r} leads out of the folder {self.uri}.")
        return self.root / key

    def check(self) -> None:
        source, target = self.root / temporary_name(), self.root / temporary_name()
        with explained(f"Writing in {self.uri}"):
            try:
                self.root.mkdir(parents=True, exist_ok=True)
                source.touch()
                self._link(source, target)
            finally:
                source.unlink(missing_ok=True)
                target.unlink(missing_ok=True)

    def _link(self, source: Path, target: Path) -> None:
        """Give the file a second name unless the name is taken: the one way to create a file whole and only once."""
        try:
            os.link(source, target)
        except OSError as error:
            if error.errno not in (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS):
                raise
            raise Unusable(
                f"The file system of {self.uri} has no hard links ({error.strerror}), without which two runs could "
                f"overwrite each other's artifacts. Set GESSO_STORE to a folder on another disk, or to a bucket."
            ) from error

    def list(self, prefix: str = "", broken_links: bool = False) -> Iterator[Object]:
        for found in self._objects(prefix, broken_links):
            if not TEMPORARY.fullmatch(found.key.rpartition("/")[2]):
                yield found

    def leftovers(self) -> Iterator[Object]:
        for found in self._objects(""):
            if TEMPORARY.fullmatch(found.key.rpartition("/")[2]):
                yield found

    def remove_leftover(self, leftover: Object) -> None:
        self.delete(leftover.key)

    def _objects(self, prefix: str, broken_links: bool = False) -> Iterator[Object]:
        if not self.root.exists():
            return
        folder = prefix.rpartition("/")[0]
        for key, facts in self._walk(str(self.root / folder), folder + "/" if folder else "", frozenset()):
            if key.startswith(prefix) and (broken_links or not stat.S_ISLNK(facts.st_mode)):
                modified = datetime.fromtimestamp(facts.st_mtime, UTC)
                yield Object(key, facts.st_size, f"{facts.st_mtime_ns:x}-{facts.st_size:x}", modified)

    def _walk(
        self, folder: str, prefix: str, above: frozenset[tuple[int, int]]
    ) -> Iterator[tuple[str, os.stat_result]]:
        """Files below `folder`, and links that lead nowhere.

        Links are followed, but never into a folder that holds them: that would not end.
        """
        with explained(f"Listing {self.uri}"):
            try:
                here = os.stat(folder)
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except (FileNotFoundError, NotADirectoryError):
                return
        if (identity := (here.st_dev, here.st_ino)) in above:
            return
        for entry in entries:
            facts = _facts(entry)
            if facts is None:
                continue
            if stat.S_ISDIR(facts.st_mode):
                yield from self._walk(entry.path, f"{prefix}{entry.name}/", above | {identity})
            elif stat.S_ISREG(facts.st_mode) or stat.S_ISLNK(facts.st_mode):
                yield prefix + entry.name, facts

    def list_as_of(self, prefix: str, when: datetime) -> Iterator[Object] | None:
        return None

    def get(self, key: str, version: str | None = None) -> bytes:
        with explained(f"Reading {key} in {self.uri}"):
            return self._path(key).read_bytes()

    def get_with_etag(self, key: str) -> tuple[bytes, str]:
        data = self.get(key)
        return data, _etag(data)

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    @contextmanager
    def _written(self, key: str, write: Callable[[Path], None]) -> Iterator[tuple[Path, Path]]:
        """A finished temporary file beside the object's path, and that path."""
        path = self._path(key)
        temporary = path.parent / temporary_name()
        with explained(f"Writing {key} in {self.uri}"):
            try:
                while True:
                    path.parent.mkdir(parents=True, exist_ok=True)
                    try:
                        temporary.touch()
                        break
                    except FileNotFoundError:
                        continue  # `delete` took the empty folder away
                write(temporary)
                yield temporary, path
            finally:
                temporary.unlink(missing_ok=True)

    @contextmanager
    def _bytes_written(self, key: str, data: bytes) -> Iterator[tuple[Path, Path]]:
        def write(path: Path) -> None:
            with path.open("wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())

        with self._written(key, write) as paths:
            yield paths

    def put(self, key: str, data: bytes) -> None:
        with self._bytes_written(key, data) as (temporary, path):
            os.replace(temporary, path)

    def create(self, key: str, data: bytes) -> bool:
        with self._bytes_written(key, data) as (temporary, path):
            while True:
                try:
                    self._link(temporary, path)
                    return True
                except FileExistsError:
                    if path.is_symlink() and not path.exists():
                        raise Unusable(
                            f"Writing {key} in {self.uri}: {path} is a link that leads nowhere. Bring back "
                            f"what it leads to, or remove the link."
                        ) from None
                    with suppress(FileNotFoundError):  # removed since: then it can be created
                        return path.read_bytes() == data

    def replace(self, key: str, data: bytes, etag: str | None) -> bool:
        if etag is None:
            return self.create(key, data)
        with self._bytes_written(key, data) as (temporary, path), self._locked():
            if not self._has(path, etag):
                return False
            os.replace(temporary, path)
            return True

    @contextmanager
    def _locked(self) -> Iterator[None]:
        with (self.root / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _has(self, path: Path, etag: str) -> bool:
        return path.exists() and _etag(path.read_bytes()) == etag

    def delete(self, key: str) -> None:
        path = self._path(key)
        with explained(f"Deleting {key} in {self.uri}"):
            path.unlink(missing_ok=True)
        self._prune(path.parent)

    def _prune(self, folder: Path) -> None:
        """Remove a folder that became empty, and those above it."""
        with suppress(OSError):  # it isn't empty, or somebody else removed it
            while folder != self.root:
                folder.rmdir()
                folder = folder.parent

    def upload(self, path: Path, key: str) -> None:
        def write(temporary: Path) -> None:
            try:
                os.replace(path, temporary)
                os.utime(temporary)  # when it came into the store, as in a bucket
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                shutil.copyfile(path, temporary)

        with self._written(key, write) as (temporary, target):
            os.replace(temporary, target)

    def copy(self, source: str, key: str) -> None:
        def write(temporary: Path) -> None:
            temporary.unlink()
            try:
                os.link(self._path(source), temporary)  # what is written stays as it is, so both may be one file
                os.utime(temporary)
            except PermissionError:  # another user's
                temporary.unlink(missing_ok=True)  # it may be linked, and only its time not be set
                shutil.copyfile(self._path(source), temporary)

        with self._written(key, write) as (temporary, target):
            os.replace(temporary, target)

    def download(self, key: str, path: Path) -> None:
        with explained(f"Copying {key} of {self.uri} to {path}"):
            temporary = path.parent / temporary_name()
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(self._path(key), temporary)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)

    def local_path(self, key: str) -> Path | None:
        return self._path(key)
