"""One interface to the two places data can be: a folder, or a bucket (S3 and what speaks its protocol).

    store = open_store("s3://gesso/artifacts")     # or a folder
    store.put("a/b.json", b"{}")                   # whole or not at all
    store.create("a/b.json", b"{}")                # False: somebody else's is there
    data, etag = store.get_with_etag("a/b.json")
    store.replace("a/b.json", b"[]", etag)         # False: it was changed meanwhile

Keys are relative to the store's root, with "/" between their parts. Every write is atomic: a reader sees the old
object or the new one. Errors are `StoreError`s that say which object and what to do.
"""

import errno
import fcntl
import hashlib
import os
import shutil
import threading
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from tasks.core.errors import Denied, NotFound, ParamsError, StoreError


@dataclass(frozen=True, slots=True)
class Object:
    """An object as a listing shows it."""

    key: str
    size: int  # bytes
    etag: str  # changes when the object does; not comparable between stores
    modified: datetime  # UTC
    version: str | None = None  # the version id, in a bucket that keeps versions


class Store(Protocol):
    """What Gesso asks of a place for data."""

    uri: str

    def list(self, prefix: str = "") -> Iterator[Object]:
        """The objects whose key begins with `prefix`, in no promised order."""

    def list_as_of(self, prefix: str, when: datetime) -> Iterator[Object] | None:
        """The objects as they were at `when`, deleted ones included; None where the store keeps no versions."""

    def get(self, key: str, version: str | None = None) -> bytes:
        """The object's bytes. Raises `NotFound`."""

    def get_with_etag(self, key: str) -> tuple[bytes, str]:
        """The object's bytes and the tag that `replace` wants."""

    def exists(self, key: str) -> bool:
        """Whether the object is there."""

    def put(self, key: str, data: bytes) -> None:
        """Write the object, over one that is there."""

    def create(self, key: str, data: bytes) -> bool:
        """Write the object unless one is there; whether this call's bytes are the ones that are there now."""

    def replace(self, key: str, data: bytes, etag: str | None) -> bool:
        """Write the object if it still has this tag (None: if it isn't there); whether it was written."""

    def delete(self, key: str) -> None:
        """Remove the object; no error where it isn't there."""

    def upload(self, path: Path, key: str) -> None:
        """Move a local file into the store (it may be gone from `path` afterwards)."""

    def download(self, key: str, path: Path) -> None:
        """Copy the object into a local file, which appears whole or not at all."""

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


@contextmanager
def _explained(what: str) -> Iterator[None]:
    """Turn the operating system's errors into sentences."""
    try:
        yield
    except FileNotFoundError as error:
        raise NotFound(f"{what}: there is no such file ({error.filename}).") from error
    except PermissionError as error:
        raise Denied(f"{what}: no permission ({error.filename}). Give this user access to it.") from error
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise StoreError(f"{what}: the disk is full. Nothing was lost; make room and run again.") from error
        raise StoreError(f"{what}: {error}") from error


class LocalStore:
    """A folder as a store."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.uri = str(root)

    def _path(self, key: str) -> Path:
        if key.startswith("/") or ".." in key.split("/"):
            raise ParamsError(f"{key!r} leads out of the folder {self.uri}.")
        return self.root / key

    def list(self, prefix: str = "") -> Iterator[Object]:
        if not self.root.exists():
            return
        folder = prefix.rpartition("/")[0]
        for key, stat in self._walk(str(self.root / folder), folder + "/" if folder else "", frozenset()):
            if key.startswith(prefix):
                modified = datetime.fromtimestamp(stat.st_mtime, UTC)
                yield Object(key, stat.st_size, f"{stat.st_mtime_ns:x}-{stat.st_size:x}", modified)

    def _walk(
        self, folder: str, prefix: str, above: frozenset[tuple[int, int]]
    ) -> Iterator[tuple[str, os.stat_result]]:
        """Files below `folder`. Links are followed, but never into a folder that holds them: that would not end."""
        with _explained(f"Listing {self.uri}"):
            try:
                here = os.stat(folder)
                entries = sorted(os.scandir(folder), key=lambda entry: entry.name)
            except (FileNotFoundError, NotADirectoryError):
                return
        if (identity := (here.st_dev, here.st_ino)) in above:
            return
        for entry in entries:
            try:
                if entry.is_dir():
                    yield from self._walk(entry.path, f"{prefix}{entry.name}/", above | {identity})
                elif entry.is_file():
                    yield prefix + entry.name, entry.stat()
            except OSError as error:  # a link that leads nowhere or round in a circle
                if error.errno not in (errno.ENOENT, errno.ELOOP):
                    raise

    def list_as_of(self, prefix: str, when: datetime) -> Iterator[Object] | None:
        return None

    def get(self, key: str, version: str | None = None) -> bytes:
        with _explained(f"Reading {key} in {self.uri}"):
            return self._path(key).read_bytes()

    def get_with_etag(self, key: str) -> tuple[bytes, str]:
        data = self.get(key)
        return data, hashlib.sha256(data).hexdigest()

    def exists(self, key: str) -> bool:
        return self._path(key).is_file()

    @contextmanager
    def _written(self, key: str, data: bytes) -> Iterator[tuple[Path, Path]]:
        """A finished temporary file beside the object's path, and that path."""
        path = self._path(key)
        with _explained(f"Writing {key} in {self.uri}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
            try:
                with temporary.open("wb") as file:
                    file.write(data)
                    file.flush()
                    os.fsync(file.fileno())
                yield temporary, path
            finally:
                temporary.unlink(missing_ok=True)

    def put(self, key: str, data: bytes) -> None:
        with self._written(key, data) as (temporary, path):
            os.replace(temporary, path)

    def create(self, key: str, data: bytes) -> bool:
        with self._written(key, data) as (temporary, path):
            try:
                os.link(temporary, path)
            except FileExistsError:
                return path.read_bytes() == data
            return True

    def replace(self, key: str, data: bytes, etag: str | None) -> bool:
        if etag is None:
            return self.create(key, data)
        with self._written(key, data) as (temporary, path), (self.root / ".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists() or hashlib.sha256(path.read_bytes()).hexdigest() != etag:
                return False
            os.replace(temporary, path)
            return True

    def delete(self, key: str) -> None:
        with _explained(f"Deleting {key} in {self.uri}"):
            self._path(key).unlink(missing_ok=True)

    def upload(self, path: Path, key: str) -> None:
        target = self._path(key)
        with _explained(f"Writing {key} in {self.uri}"):
            target.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.replace(path, target)
            except OSError as error:
                if error.errno != errno.EXDEV:
                    raise
                temporary = target.parent / f".{uuid.uuid4().hex}.tmp"
                try:
                    shutil.copyfile(path, temporary)
                    os.replace(temporary, target)
                finally:
                    temporary.unlink(missing_ok=True)

    def download(self, key: str, path: Path) -> None:
        with _explained(f"Copying {key} of {self.uri} to {path}"):
            temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                shutil.copyfile(self._path(key), temporary)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)

    def local_path(self, key: str) -> Path | None:
        return self._path(key)


def _age(version: dict[str, Any]) -> tuple[datetime, bool]:
    """What orders the versions of a key; within one second only the latest of all can be told from the others."""
    return version["LastModified"], version["IsLatest"]


class S3Store:
    """A prefix of a bucket as a store. Address, keys and region come from the environment, as boto3 reads them."""

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket = bucket
        self.prefix = prefix + "/" if prefix else ""
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self._client: Any = None
        self._making = threading.Lock()  # boto3's default session is not made for several threads

    @property
    def client(self) -> Any:
        """The boto3 client, made at first use: importing boto3 takes a quarter of a second."""
        with self._making:
            if self._client is None:
                import boto3
                from botocore.config import Config

                self._client = boto3.Session().client(
                    "s3",
                    config=Config(
                        retries={
                            "mode": "standard",
                            "max_attempts": 8,
                        },  # 5xx, throttling, broken connections; jittered
                        connect_timeout=10,
                        read_timeout=60,
                        max_pool_connections=64,
                    ),
                )
        return self._client

    @contextmanager
    def _explained(self, what: str) -> Iterator[None]:
        """Turn boto3's errors into sentences."""
        from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

        try:
            yield
        except ClientError as error:
            code = error.response.get("Error", {}).get("Code", "")
            status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
            if code == "NoSuchBucket":
                raise NotFound(f"{what}: there is no bucket {self.bucket!r}. Create it, or correct the URI.") from error
            if status == 404:
                raise NotFound(f"{what}: there is no such object.") from error
            if code == "RequestTimeTooSkewed":
                raise StoreError(f"{what}: this machine's clock is wrong, so the server refuses it. Set it.") from error
            if code in ("PermanentRedirect", "AuthorizationHeaderMalformed", "301"):
                raise StoreError(f"{what}: the bucket is in another region. Set AWS_DEFAULT_REGION.") from error
            if status == 403:
                raise Denied(
                    f"{what}: access denied ({code}). Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the policy."
                ) from error
            raise StoreError(f"{what}: the server answered {code} ({status}).") from error
        except NoCredentialsError as error:
            raise Denied(f"{what}: no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY.") from error
        except BotoCoreError as error:
            raise StoreError(f"{what}: {error} Is AWS_ENDPOINT_URL right, and the server up?") from error

    def list(self, prefix: str = "") -> Iterator[Object]:
        with self._explained(f"Listing {self.uri}/{prefix}"):
            pages = self.client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=self.prefix + prefix
            )
            for page in pages:
                for item in page.get("Contents", ()):
                    yield self._object(item, None)

    def list_as_of(self, prefix: str, when: datetime) -> Iterator[Object] | None:
        with self._explained(f"Listing the versions of {self.uri}/{prefix}"):
            if self.client.get_bucket_versioning(Bucket=self.bucket).get("Status") != "Enabled":
                return None
        return self._versions(prefix, when)

    def _versions(self, prefix: str, when: datetime) -> Iterator[Object]:
        with self._explained(f"Listing the versions of {self.uri}/{prefix}"):
            pages = self.client.get_paginator("list_object_versions").paginate(
                Bucket=self.bucket, Prefix=self.prefix + prefix
            )
            newest: dict[str, Any] = {}  # of the key being listed: versions of one key come one after another
            for page in pages:
                found = [*page.get("Versions", ()), *page.get("DeleteMarkers", ())]
                for item in sorted(found, key=lambda item: item["Key"]):
                    if newest and newest["Key"] != item["Key"]:
                        if "Size" in newest:
                            yield self._object(newest, newest["VersionId"])
                        newest = {}
                    if item["LastModified"] <= when and (not newest or _age(item) > _age(newest)):
                        newest = item
            if newest and "Size" in newest:
                yield self._object(newest, newest["VersionId"])

    def _object(self, item: dict[str, Any], version: str | None) -> Object:
        modified = item["LastModified"].astimezone(UTC)
        return Object(item["Key"][len(self.prefix) :], item["Size"], item["ETag"].strip('"'), modified, version)

    def get(self, key: str, version: str | None = None) -> bytes:
        with self._explained(f"Reading {self.uri}/{key}"):
            which = {"VersionId": version} if version else {}
            data: bytes = self.client.get_object(Bucket=self.bucket, Key=self.prefix + key, **which)["Body"].read()
            return data

    def get_with_etag(self, key: str) -> tuple[bytes, str]:
        with self._explained(f"Reading {self.uri}/{key}"):
            answer = self.client.get_object(Bucket=self.bucket, Key=self.prefix + key)
            return answer["Body"].read(), answer["ETag"]

    def exists(self, key: str) -> bool:
        try:
            with self._explained(f"Looking for {self.uri}/{key}"):
                self.client.head_object(Bucket=self.bucket, Key=self.prefix + key)
        except NotFound:
            return False
        return True

    def put(self, key: str, data: bytes) -> None:
        with self._explained(f"Writing {self.uri}/{key}"):
            self.client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=data)

    def create(self, key: str, data: bytes) -> bool:
        # Where the reply to the first try was lost, the second finds its own bytes there: that is a success too.
        return self._put_if(key, data, {"IfNoneMatch": "*"}) or self.get(key) == data

    def replace(self, key: str, data: bytes, etag: str | None) -> bool:
        if etag is None:
            return self.create(key, data)
        return self._put_if(key, data, {"IfMatch": etag})

    def _put_if(self, key: str, data: bytes, condition: dict[str, str]) -> bool:
        from botocore.exceptions import ClientError

        with self._explained(f"Writing {self.uri}/{key}"):
            try:
                self.client.put_object(Bucket=self.bucket, Key=self.prefix + key, Body=data, **condition)
            except ClientError as error:
                status = error.response.get("ResponseMetadata", {}).get("HTTPStatusCode")
                gone = status == 404 and "IfMatch" in condition
                if status in (409, 412) or gone:  # 409: another conditional write is under way
                    return False
                raise
            return True

    def delete(self, key: str) -> None:
        with self._explained(f"Deleting {self.uri}/{key}"):
            self.client.delete_object(Bucket=self.bucket, Key=self.prefix + key)

    def upload(self, path: Path, key: str) -> None:
        from boto3.exceptions import S3UploadFailedError

        with self._explained(f"Writing {self.uri}/{key}"):
            try:
                self.client.upload_file(str(path), self.bucket, self.prefix + key)
            except S3UploadFailedError as error:
                raise error.__context__ or StoreError(f"Writing {self.uri}/{key}: {error}") from error

    def download(self, key: str, path: Path) -> None:
        with self._explained(f"Reading {self.uri}/{key}"), _explained(f"Writing {path}"):
            temporary = path.parent / f".{uuid.uuid4().hex}.tmp"
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self.client.download_file(self.bucket, self.prefix + key, str(temporary))
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)

    def local_path(self, key: str) -> Path | None:
        return None
