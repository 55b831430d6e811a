"""A prefix of a bucket as a store: Amazon's S3, and servers that speak its protocol."""

import hashlib
import logging
import os
import random
import re
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, suppress
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from functools import cache, partial
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar

from tasks.core.errors import TRY_AGAIN, Archived, Denied, NotFound, ParamsError, StoreError, Unusable
from tasks.core.local_store import explained
from tasks.core.objects import TEMPORARY, Bulk, Object, interleaved, temporary_name

Answer = TypeVar("Answer")

THREADS = 32
LISTINGS = 8  # at a time: making Python's objects of the answers takes one core
CONNECT_SECONDS, READ_SECONDS = 10, 60
PATIENCE = 60
"""Seconds for which a request is tried again after its first failure, once the server has answered at all."""
PAUSE = 10  # seconds between two tries, at most
DIRECT_TRIES, DIRECT_PAUSE = 3, 60  # reads past boto3 that may fail in a row, before it does all for so many seconds
LARGE = 16 << 20  # bytes; from here on a file goes in several parts at a time
CHUNK = 1 << 20  # bytes
PLAIN_BUCKET = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]+")
#: Refusals that may pass: too slow, in conflict with another write, too many, damaged on the way.
PASSING = (408, 409, 429, "RequestTimeout", "BadDigest", "IncompleteBody", "XAmzContentSHA256Mismatch")

_making = threading.RLock()  # boto3's sessions are not made for several threads
_answering: set[int] = set()  # clients whose server has answered
_reading_in: dict[str, int] = {}  # the process in which obstore's threads run
_checked: set[tuple[str, str]] = set()  # address and bucket of stores that honour conditional writes


@cache
def _client(process: int, environment: frozenset[tuple[str, str]]) -> Any:
    """The boto3 client of this process and these AWS_… variables. Importing boto3 takes a quarter of a second."""
    import boto3
    from botocore.config import Config

    if not (logger := logging.getLogger("botocore")).level:
        logger.setLevel(logging.WARNING)  # else each client says in the task's log where it found its keys
    config = Config(
        # These few tries are for a part of a large file; `S3Store._ask` is around all of them.
        retries={"mode": "standard", "total_max_attempts": 3},
        connect_timeout=CONNECT_SECONDS,
        read_timeout=READ_SECONDS,
        max_pool_connections=2 * THREADS,
    )
    try:
        return boto3.Session().client("s3", config=config)
    except ValueError as error:  # its word for a malformed address
        raise ParamsError(f"AWS_ENDPOINT_URL can't be used: {error}. Expected http://host:port or https://…") from None


@cache
def _transfer(client: Any) -> Any:
    """Large files to and from the client's server; one for all threads, which bounds the memory they take."""
    from boto3.s3.transfer import S3Transfer, TransferConfig

    config = TransferConfig(
        multipart_threshold=LARGE, multipart_chunksize=8 << 20, max_concurrency=8, preferred_transfer_client="classic"
    )
    return S3Transfer(client, config)


@cache
def _reader(client: Any, bucket: str) -> Any:
    """obstore's store for the client's bucket, with its address and boto3's credentials.

    None where there are no credentials, or where the name is one that obstore would make another address of.
    """
    import boto3
    from obstore.store import S3Store as Reader

    found = boto3.Session().get_credentials()
    if found is None or not PLAIN_BUCKET.fullmatch(bucket):
        return None

    def credentials() -> Any:
        frozen = found.get_frozen_credentials()  # boto3 gets new ones before they expire
        return {
            "access_key_id": frozen.access_key,
            "secret_access_key": frozen.secret_key,
            "token": frozen.token,
            "expires_at": datetime.now(UTC) + timedelta(minutes=10),
        }

    return Reader(
        bucket,
        endpoint=client.meta.endpoint_url,
        region=client.meta.region_name,
        credential_provider=credentials,
        client_options={
            "allow_http": True,
            "connect_timeout": f"{CONNECT_SECONDS}s",
            "timeout": f"{READ_SECONDS}s",
        },
        retry_config={"max_retries": 0},
    )


def _age(version: dict[str, Any]) -> tuple[datetime, bool]:
    """What orders the versions of a key; within one second only the latest of all can be told from the others."""
    return version["LastModified"], version["IsLatest"]


def _request(name: str, client: Any, **options: Any) -> Any:
    return getattr(client, name)(**options)


def _cause(error: Exception) -> BaseException:
    """What boto3's transfers wrap."""
    cause = getattr(error, "last_exception", None) or (error.__context__ if _is_wrapper(error) else None)
    return cause or error


def _is_wrapper(error: Exception) -> bool:
    from boto3.exceptions import Boto3Error

    return isinstance(error, Boto3Error)


def _is_of_s3(error: Any) -> bool:
    """Whether the refusal is an S3 server's, and not that of something else at its address."""
    headers = error.response.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    by_status_alone = error.response.get("Error", {}).get("Code", "").isdigit()  # as after HEAD, which has no body
    return not by_status_alone or any(name.startswith("x-amz-") for name in headers)


def _clocks(headers: Mapping[str, str]) -> str:
    """What time it is here and there."""
    here = datetime.now(UTC)
    try:
        there = parsedate_to_datetime(headers["date"])
    except (KeyError, ValueError):
        return "This machine's clock is wrong."
    apart = abs((here - there).total_seconds()) / 60
    return f"This machine's clock says {here:%F %T} UTC, the server's {there:%F %T}: {apart:,.0f} minutes apart."


def _not_s3(what: str) -> Unusable:
    return Unusable(f"{what}: what answered is not an S3 server. Is AWS_ENDPOINT_URL right?")


class S3Store(Bulk):
    """A prefix of a bucket as a store. Address, keys and region come from the environment, as boto3 reads them.

    Its methods are those of `tasks.core.store.Store`. boto3 sends a CRC with what it writes and checks the one that the
    server keeps on what it reads (`AWS_REQUEST_CHECKSUM_CALCULATION=when_required` for a server that can't have that);
    what obstore reads is held against its ETag.
    """

    def __init__(self, bucket: str, prefix: str) -> None:
        self.bucket = bucket
        self.prefix = prefix + "/" if prefix else ""
        self.uri = f"s3://{bucket}/{prefix}".rstrip("/")
        self.threads = THREADS
        self._own_client: Any = None
        self._direct_failures, self._direct_from = 0, 0.0

    @property
    def client(self) -> Any:
        """The boto3 client, made at first use."""
        if self._own_client is None:
            with _making:
                aws = frozenset((name, value) for name, value in os.environ.items() if name.startswith("AWS_"))
                self._own_client = _client(os.getpid(), aws)
        return self._own_client

    def _ask(self, what: str, request: Callable[[Any], Answer]) -> Answer:
        """What `request(client)` returns, tried again while that may help; its errors in sentences.

        A server that never answered is not waited for: its address may be wrong.
        """
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError
        from botocore.parsers import ResponseParserError

        client, failed, pause = self.client, 0.0, 0.2
        while True:
            try:
                answer = request(client)
            except (Boto3Error, BotoCoreError, ClientError, ResponseParserError) as error:
                cause = _cause(error)
                if isinstance(cause, ClientError) and _is_of_s3(cause):
                    _answering.add(id(client))
                explanation = self._explanation(what, cause)
                now = time.monotonic()
                failed = failed or now
                patient = explanation.exit_status == TRY_AGAIN and id(client) in _answering
                if not patient or now - failed > PATIENCE:
                    raise explanation from error
                time.sleep(random.uniform(pause / 2, pause))
                pause = min(2 * pause, PAUSE)
            else:
                _answering.add(id(client))
                return answer

    def _explanation(self, what: str, error: BaseException) -> StoreError | ParamsError:
        """boto3's error as a sentence."""
        from botocore import exceptions as boto

        if isinstance(error, boto.ClientError):
            return self._refusal(what, error)
        if isinstance(error, boto.NoCredentialsError | boto.PartialCredentialsError | boto.CredentialRetrievalError):
            return Denied(f"{what}: no credentials. Set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. ({error})")
        if isinstance(error, boto.ParamValidationError):
            return ParamsError(f"{what}: {' '.join(str(error).split())}.")
        if isinstance(error, boto.SSLError):
            return Unusable(
                f"{what}: {error}. Is AWS_ENDPOINT_URL right (http:// or https://)? Does AWS_CA_BUNDLE name the "
                f"server's certificate authority?"
            )
        if isinstance(error, boto.ProfileNotFound | boto.NoRegionError | boto.InvalidRegionError):
            return Unusable(f"{what}: {error} Set AWS_DEFAULT_REGION, AWS_PROFILE or neither.")
        if isinstance(error, boto.BotoCoreError):
            return StoreError(f"{what}: {error} Is AWS_ENDPOINT_URL right, and the server up?")
        return _not_s3(what)  # an answer that can't be parsed

    def _refusal(self, what: str, error: Any) -> StoreError:
        """The server's answer as a sentence."""
        code = error.response.get("Error", {}).get("Code", "")
        about = error.response.get("ResponseMetadata", {})
        status, headers = about.get("HTTPStatusCode"), about.get("HTTPHeaders", {})
        region = error.response.get("Error", {}).get("Region") or headers.get("x-amz-bucket-region")
        if code == "NoSuchBucket":
            return NotFound(f"{what}: there is no bucket {self.bucket!r}. Create it, or correct the URI.")
        if code == "RequestTimeTooSkewed":
            return Unusable(f"{what}: {_clocks(headers)} The server refuses requests of another time. Set the clock.")
        if code in ("PermanentRedirect", "AuthorizationHeaderMalformed", "IllegalLocationConstraintException", "301"):
            right = f"AWS_DEFAULT_REGION={region}" if region else "AWS_DEFAULT_REGION to the bucket's region"
            return Unusable(f"{what}: the bucket {self.bucket!r} is in another region. Set {right}.")
        if code in ("ExpiredToken", "InvalidToken", "TokenRefreshRequired"):
            return Denied(f"{what}: the session's credentials have expired or are not valid ({code}). Get new ones.")
        if code == "InvalidObjectState":
            return Archived(
                f"{what}: the object is archived ({code}). Restore it, or, if it is an image, take it out of the "
                f"data set."
            )
        if not _is_of_s3(error) and error.operation_name != "HeadObject":
            if (status or 500) < 500:
                return _not_s3(what)
            return StoreError(f"{what}: a server answered {status}, but not as S3 does. Is AWS_ENDPOINT_URL right?")
        if status == 404:
            return NotFound(f"{what}: there is no such object.")
        if status in (401, 403):
            return Denied(
                f"{what}: access denied ({code}). Check AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and the policy; "
                f"without s3:ListBucket even what isn't there is refused."
            )
        if code == "NotImplemented" or (
            status and 400 <= status < 500 and status not in PASSING and code not in PASSING
        ):
            return Unusable(f"{what}: the server does not do this. It answered {code} ({status}): {error}.")
        return StoreError(f"{what}: the server answered {code} ({status}), over and over. Run again later.")

    def check(self) -> None:
        known = (self.client.meta.endpoint_url, self.bucket)
        if known in _checked:
            return
        key = temporary_name()  # nobody else's, so that several may check at once
        name, what = {"Bucket": self.bucket, "Key": self.prefix + key}, f"Trying conditional writes in {self.uri}"
        versions: list[str | None] = []
        server = ""

        def write(condition: dict[str, str]) -> bool:
            nonlocal server
            answer = self._conditional(what, lambda client: client.put_object(**name, Body=b"", **condition))
            if answer is not None:
                versions.append(answer.get("VersionId"))
                server = str(answer["ResponseMetadata"]["HTTPHeaders"].get("server", ""))
            return answer is not None

        try:
            write({"IfNoneMatch": "*"})
            ignored = [header for header, tag in (("IfNoneMatch", "*"), ("IfMatch", '"0"')) if write({header: tag})]
        finally:
            for version in versions:
                self._delete_version(key, version)
        if ignored:
            raise Unusable(
                f"The server of {self.uri} ignores {' and '.join(ignored)}: two runs could overwrite each other's "
                f"artifacts, so Gesso keeps none there. Set GESSO_STORE to a bucket of a server with conditional "
                f"writes, or to a folder. (Data sets may stay there.)"
            )
        if any(versions) and server.startswith("Ceph"):
            raise Unusable(
                f"The bucket of {self.uri} keeps versions, and in such a bucket {server} lets several conditional "
                f"writes win at once: two runs could lose each other's records. Set GESSO_STORE to a bucket that keeps "
                f"none. (The data set may stay, and should.)"
            )
        _checked.add(known)

    def _delete_version(self, key: str, version: str | None) -> None:
        """Delete for good, where the policy lets one: in a bucket that keeps versions a plain delete adds a marker."""
        name = {"Bucket": self.bucket, "Key": self.prefix + key}
        try:
            which = {"VersionId": version} if version else {}
            self._ask(f"Deleting {self.uri}/{key}", lambda client: client.delete_object(**name, **which))
        except Denied:
            self.delete(key)

    def _conditional(self, what: str, request: Callable[[Any], Any]) -> Any:
        """The answer to a conditional request, or None where the condition doesn't hold."""
        from botocore.exceptions import ClientError

        def ask(client: Any) -> Any:
            try:
                return request(client)
            except ClientError as error:
                status, code = error.response["ResponseMetadata"]["HTTPStatusCode"], error.response["Error"]["Code"]
                if status == 412 or (status == 404 and code not in ("NoSuchBucket", "404")):
                    return None
                if status == 501:
                    raise Unusable(
                        f"{what}: the server has no conditional requests ({code}), without which two runs could "
                        f"overwrite each other's artifacts. Use another server, or a folder."
                    ) from error
                raise

        return self._ask(what, ask)

    def _pages(self, what: str, request: str, **options: Any) -> Iterator[dict[str, Any]]:
        """The pages of a listing, each asked for by itself: one that fails is asked for again."""
        while True:
            page: dict[str, Any] = self._ask(what, partial(_request, request, Bucket=self.bucket, **options))
            yield page
            if not page.get("IsTruncated"):
                return
            for marker in ("ContinuationToken", "KeyMarker", "VersionIdMarker", "UploadIdMarker", "PartNumberMarker"):
                options.pop(marker, None)  # a page that ends with a folder has no version to go on after
                if following := page.get(f"Next{marker}"):
                    options[marker] = following

    def list(self, prefix: str = "", broken_links: bool = False) -> Iterator[Object]:
        return self._by_folder(f"Listing {self.uri}/{prefix}", "list_objects_v2", prefix, self._objects)

    def _objects(self, pages: Iterator[dict[str, Any]]) -> Iterator[Object]:
        for page in pages:
            for item in page.get("Contents", ()):
                if not TEMPORARY.fullmatch(item["Key"].rpartition("/")[2]):
                    yield self._object(item, None)

    def _by_folder(
        self, what: str, request: str, prefix: str, read: Callable[[Iterator[dict[str, Any]]], Iterator[Object]]
    ) -> Iterator[Object]:
        """What `read` makes of a listing's pages; a long one of the whole store lists its folders side by side.

        One page follows another only, so a long listing waits for each answer in turn. A data set's folders are its
        classes; the many small ones below `artifacts/` would take a request each where a page holds a hundred.
        """
        pages = self._pages(what, request, Prefix=self.prefix + prefix)
        first = next(pages)
        if prefix or not first.get("IsTruncated"):
            yield from read(chain([first], pages))
            return
        folders: list[str] = []

        def here() -> Iterator[dict[str, Any]]:
            for page in self._pages(what, request, Prefix=self.prefix, Delimiter="/"):
                folders.extend(each["Prefix"] for each in page.get("CommonPrefixes", ()))
                yield page

        yield from read(here())
        listings = (read(self._pages(what, request, Prefix=folder)) for folder in folders)
        yield from interleaved(listings, LISTINGS)

    def list_as_of(self, prefix: str, when: datetime) -> Iterator[Object] | None:
        what = f"Asking whether {self.uri} keeps versions"
        try:
            versions = self._ask(what, lambda client: client.get_bucket_versioning(Bucket=self.bucket))
        except Unusable:  # a server that never has any
            return None
        return self._versions(prefix, when) if versions.get("Status") == "Enabled" else None

    def _versions(self, prefix: str, when: datetime) -> Iterator[Object]:
        what = f"Listing the versions of {self.uri}/{prefix}"
        return self._by_folder(what, "list_object_versions", prefix, lambda pages: self._current(pages, when))

    def _current(self, pages: Iterator[dict[str, Any]], when: datetime) -> Iterator[Object]:
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

    def leftovers(self) -> Iterator[Object]:
        what = f"Listing unfinished uploads to {self.uri}"
        for page in self._pages(what, "list_multipart_uploads", Prefix=self.prefix):
            for upload in page.get("Uploads", ()):
                key, name = upload["Key"][len(self.prefix) :], upload["UploadId"]
                with suppress(NotFound):  # finished since
                    parts = self._pages(what, "list_parts", Key=upload["Key"], UploadId=name)
                    size = sum(part["Size"] for page in parts for part in page.get("Parts", ()))
                    yield Object(key, size, "", upload["Initiated"].astimezone(UTC), name)
        for page in self._pages(what, "list_objects_v2", Prefix=self.prefix + "."):
            for item in page.get("Contents", ()):
                if TEMPORARY.fullmatch(item["Key"][len(self.prefix) :]):
                    yield self._object(item, None)

    def remove_leftover(self, leftover: Object) -> None:
        if leftover.etag:
            self.delete(leftover.key)
            return
        name = {"Bucket": self.bucket, "Key": self.prefix + leftover.key, "UploadId": leftover.version}
        with suppress(NotFound):  # somebody else did
            what = f"Ending the upload of {self.uri}/{leftover.key}"
            self._ask(what, lambda client: client.abort_multipart_upload(**name))

    def _read(self, key: str, version: str | None = None) -> tuple[bytes, str]:
        what = f"Reading {self.uri}/{key}"
        which = {"VersionId": version} if version else {}
        if (found := self._read_directly(key, which)) is not None:
            return found

        def read(client: Any) -> tuple[bytes, str]:
            answer = client.get_object(Bucket=self.bucket, Key=self.prefix + key, **which)
            if "ETag" not in answer:
                raise _not_s3(what)
            return answer["Body"].read(), answer["ETag"]

        return self._ask(what, read)

    def _read_directly(self, key: str, which: Mapping[str, str]) -> tuple[bytes, str] | None:
        """The object by obstore, which takes a fifth of boto3's CPU time.

        None where anything is not as usual: then boto3 asks, which tries again and whose errors are explained. The ETag
        of an object that was written in one go is the MD5 of its bytes (but for some encryptions), so it says whether
        they came as they are.
        """
        import obstore

        name = self.prefix + key
        # Its threads don't outlive a fork; and it would take other keys for the same path as these.
        if _reading_in.setdefault("process", os.getpid()) != os.getpid() or {"", ".", ".."} & set(name.split("/")):
            return None
        if time.monotonic() < self._direct_from:
            return None
        client = self.client
        try:
            with _making:
                reader = _reader(client, self.bucket)
            if reader is None:
                return None
            found = obstore.get(reader, name, options={"version": which["VersionId"]} if which else None)
            data, etag = bytes(found.bytes()), found.meta["e_tag"] or ""
        except FileNotFoundError:
            return None
        except Exception:  # whatever it is, boto3 meets it too and says what it means
            data, etag = b"", ""
        if hashlib.md5(data, usedforsecurity=False).hexdigest() == etag.strip('"'):
            self._direct_failures = 0
            _answering.add(id(client))
            return data, etag
        self._direct_failures += 1
        if self._direct_failures >= DIRECT_TRIES:
            self._direct_failures, self._direct_from = 0, time.monotonic() + DIRECT_PAUSE
        return None

    def get(self, key: str, version: str | None = None) -> bytes:
        return self._read(key, version)[0]

    def get_with_etag(self, key: str) -> tuple[bytes, str]:
        return self._read(key)

    def exists(self, key: str) -> bool:
        return self._head(key) is not None

    def _head(self, key: str) -> dict[str, Any] | None:
        name = {"Bucket": self.bucket, "Key": self.prefix + key}
        try:
            head: dict[str, Any] = self._ask(f"Looking for {self.uri}/{key}", lambda client: client.head_object(**name))
        except NotFound:
            return None
        return head

    def put(self, key: str, data: bytes) -> None:
        name = {"Bucket": self.bucket, "Key": self.prefix + key}
        self._ask(f"Writing {self.uri}/{key}", lambda client: client.put_object(**name, Body=data))

    def create(self, key: str, data: bytes) -> bool:
        while not self._put_if(key, data, {"IfNoneMatch": "*"}):
            with suppress(NotFound):  # removed since: then it can be created
                # Where the reply to the first try was lost, the second finds its own bytes: that is a success too.
                return self.get(key) == data
        return True

    def replace(self, key: str, data: bytes, etag: str | None) -> bool:
        if etag is None:
            return self.create(key, data)
        # Others may write the same bytes, so after a lost reply the bytes don't tell whose they are. The mark does,
        # unless another writer followed already.
        mark = {"gesso-write": uuid.uuid4().hex}
        if self._put_if(key, data, {"IfMatch": etag}, Metadata=mark):
            return True
        return (self._head(key) or {}).get("Metadata") == mark

    def _put_if(self, key: str, data: bytes, condition: dict[str, str], **options: Any) -> bool:
        self.check()
        name = {"Bucket": self.bucket, "Key": self.prefix + key, **condition, **options}
        what = f"Writing {self.uri}/{key}"
        return self._conditional(what, lambda client: client.put_object(**name, Body=data)) is not None

    def delete(self, key: str) -> None:
        name = {"Bucket": self.bucket, "Key": self.prefix + key}
        self._ask(f"Deleting {self.uri}/{key}", lambda client: client.delete_object(**name))

    def upload(self, path: Path, key: str) -> None:
        name = {"Bucket": self.bucket, "Key": self.prefix + key}

        def send(client: Any) -> None:
            if path.stat().st_size >= LARGE:
                _transfer(client).upload_file(str(path), name["Bucket"], name["Key"])
                return
            with path.open("rb") as file:
                client.put_object(**name, Body=file)

        with explained(f"Reading {path}"):
            self._ask(f"Writing {self.uri}/{key}", send)

    def copy(self, source: str, key: str) -> None:
        name = {"Bucket": self.bucket, "Key": self.prefix + key}
        copied = {"Bucket": self.bucket, "Key": self.prefix + source}
        self._ask(f"Copying {self.uri}/{source} to {key}", lambda client: client.copy_object(**name, CopySource=copied))

    def download(self, key: str, path: Path) -> None:
        name = {"Bucket": self.bucket, "Key": self.prefix + key}
        temporary = path.parent / temporary_name()

        def fetch(client: Any) -> None:
            answer = client.get_object(**name)
            with closing(answer["Body"]) as body:  # entering the body itself would go round its checks
                if answer["ContentLength"] < LARGE:
                    with temporary.open("wb") as file:
                        shutil.copyfileobj(body, file, CHUNK)
                    return
            _transfer(client).download_file(name["Bucket"], name["Key"], str(temporary))

        with explained(f"Writing {path}"):
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._ask(f"Reading {self.uri}/{key}", fetch)
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)

    def local_path(self, key: str) -> Path | None:
        return None
