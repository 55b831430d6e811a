"""Both stores, held to one contract: a folder, and S3 (moto's server; a real one under the marker `s3`)."""

import itertools
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from tasks.core.errors import Denied, NotFound, ParamsError, StoreError, Unusable
from tasks.core.objects import interleaved
from tasks.core.store import LocalStore, S3Store, Store, in_threads, open_store

ODD_KEYS = [
    "plain.txt",
    "with space/그림 1.png",
    "emoji 🎨.png",
    "quote'\"<b>.png",
    "long/" + "x" * 200 + ".png",
    "percent %2F.png",
]


@pytest.mark.parametrize("key", ODD_KEYS)
def test_what_is_put_is_got_and_listed(any_store: Store, key: str) -> None:
    any_store.put(key, b"one")
    any_store.put(key, b"two")

    assert any_store.get(key) == b"two"
    assert any_store.exists(key)
    assert [(found.key, found.size) for found in any_store.list()] == [(key, 3)]


def test_list_takes_a_prefix_and_gives_times_in_utc(any_store: Store) -> None:
    for key in ("a/1", "a/2", "ab/1", "b"):
        any_store.put(key, b"")

    assert sorted(found.key for found in any_store.list("a/")) == ["a/1", "a/2"]
    assert sorted(found.key for found in any_store.list("a")) == ["a/1", "a/2", "ab/1"]
    age = datetime.now(UTC) - next(iter(any_store.list("b"))).modified
    assert abs(age.total_seconds()) < 60


def test_create_is_won_once(any_store: Store) -> None:
    assert any_store.create("commit", b"first")
    assert not any_store.create("commit", b"second")
    assert any_store.create("commit", b"first"), "a repeated create of the same bytes is its own success"
    assert any_store.get("commit") == b"first"


def test_sixteen_racing_creates_have_one_winner(atomic_store: Store) -> None:
    for round_ in range(10):
        barrier = threading.Barrier(16)

        def create(writer: int, key: str = f"race/{round_}", barrier: threading.Barrier = barrier) -> bool:
            barrier.wait()
            return atomic_store.create(key, str(writer).encode())

        with ThreadPoolExecutor(16) as pool:
            won = list(pool.map(create, range(16)))
        assert sum(won) == 1
        assert atomic_store.get(f"race/{round_}") == str(won.index(True)).encode()


def test_replace_is_compare_and_swap(any_store: Store) -> None:
    assert any_store.replace("pointer", b"1", None)
    assert not any_store.replace("pointer", b"other", None)
    _, etag = any_store.get_with_etag("pointer")
    assert any_store.replace("pointer", b"2", etag)
    assert not any_store.replace("pointer", b"3", etag), "the tag is of the version before"
    assert any_store.get("pointer") == b"2"


def test_racing_replaces_lose_no_update(atomic_store: Store) -> None:
    atomic_store.put("counter", b"0")

    def increment(_: int) -> None:
        while True:
            data, etag = atomic_store.get_with_etag("counter")
            if atomic_store.replace("counter", str(int(data) + 1).encode(), etag):
                return

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(increment, range(24)))
    assert atomic_store.get("counter") == b"24"


def test_a_replace_of_what_is_gone_is_lost(any_store: Store) -> None:
    any_store.put("pointer", b"1")
    _, etag = any_store.get_with_etag("pointer")
    any_store.delete("pointer")
    assert not any_store.replace("pointer", b"2", etag)
    assert not any_store.exists("pointer")


def test_many_at_a_time(any_store: Store, tmp_path: Path) -> None:
    names = [f"many/{number:03} 그림" for number in range(150)]
    any_store.put_many((name, name.encode()) for name in names)
    assert list(any_store.get_many(iter(names))) == [(name, name.encode()) for name in names], "in order"
    assert sorted(found.key for found in any_store.list_many(["many/00", "many/1", "none/"])) == [
        name for name in names if name.startswith(("many/00", "many/1"))
    ]
    any_store.download_many((name, tmp_path / "down" / str(at)) for at, name in enumerate(names))
    assert [(tmp_path / "down" / str(at)).read_text() for at in range(150)] == names
    any_store.upload_many((tmp_path / "down" / str(at), f"up/{name}") for at, name in enumerate(names[:20]))
    assert dict(any_store.get_many(f"up/{name}" for name in names[:20])) == {f"up/{n}": n.encode() for n in names[:20]}
    any_store.delete_many([*names, "many/nothing"])
    assert list(any_store.list("many/")) == []


def test_threads_are_a_bounded_number_of_items_ahead() -> None:
    taken, kept = itertools.count(), []

    def items() -> Iterator[int]:
        for number in range(1000):
            next(taken)
            yield number

    for at, result in enumerate(in_threads(lambda number: number * 2, items(), 3)):
        assert result == at * 2
        kept.append(next(taken) - 2 * at)  # what was taken by now: two counts are made for each result
    assert max(kept) <= 4 * 3


def test_the_first_error_ends_work_in_threads() -> None:
    done: list[int] = []

    def work(number: int) -> int:
        if number == 5:
            raise ValueError("five")
        done.append(number)
        return number

    with pytest.raises(ValueError, match="five"):
        list(in_threads(work, itertools.count(), 2))
    assert len(done) < 30


def test_files_go_up_and_down(any_store: Store, tmp_path: Path) -> None:
    source = tmp_path / "source"
    source.write_bytes(os.urandom(100_000))
    data = source.read_bytes()

    any_store.upload(source, "big/file.bin")
    any_store.download("big/file.bin", tmp_path / "there" / "copy")

    assert (tmp_path / "there" / "copy").read_bytes() == data
    assert [path.name for path in (tmp_path / "there").iterdir()] == ["copy"]


def test_a_copy_outlives_what_it_was_made_of(any_store: Store) -> None:
    any_store.put("a/한 1.bin", b"first")
    began = datetime.now(UTC)
    any_store.copy_many([("a/한 1.bin", "b/copy.bin"), ("a/한 1.bin", "c/copy.bin")])
    assert [found.key for found in any_store.list("b/")] == ["b/copy.bin"]
    assert next(any_store.list("b/")).modified >= began - timedelta(seconds=2)  # as if it were written anew
    any_store.put("a/한 1.bin", b"second")
    any_store.delete("a/한 1.bin")
    assert [any_store.get(key) for key in ("b/copy.bin", "c/copy.bin")] == [b"first", b"first"]


@pytest.mark.parametrize("refused", ["link", "utime"])
def test_another_users_file_is_copied(store: LocalStore, refused: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise PermissionError

    store.put("theirs", b"1234")
    monkeypatch.setattr(os, refused, refuse)
    store.copy("theirs", "ours")
    assert store.get("ours") == b"1234"
    assert not store.local_path("ours").samefile(store.local_path("theirs"))


@pytest.mark.parametrize(
    "act",
    [lambda s: s.get("no"), lambda s: s.download("no", Path("x")), lambda s: s.copy("no", "y")],
    ids=["get", "download", "copy"],
)
def test_what_is_not_there_is_said(
    any_store: Store, act: Callable[[Store], object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(NotFound, match="no"):
        act(any_store)


def test_delete_of_nothing_is_no_error(any_store: Store) -> None:
    any_store.delete("nothing")


def test_a_bucket_that_is_not_there(s3: str) -> None:
    with pytest.raises(NotFound, match="there is no bucket 'nowhere-at-all'"):
        list(open_store("s3://nowhere-at-all").list())


def test_s3_keys_may_hold_dots_and_double_slashes(s3: str) -> None:
    store = open_store(s3)
    keys = ["a//b.png", "a/../b.png", "./c.png"]
    for key in keys:
        store.put(key, key.encode())
    assert sorted(found.key for found in store.list()) == sorted(keys)
    assert [store.get(key) for key in keys] == [key.encode() for key in keys]


def test_a_server_that_is_not_there(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("time.sleep", lambda _: None)  # botocore's pauses between its tries
    with pytest.raises(StoreError, match="AWS_ENDPOINT_URL"):
        open_store(s3).get("x")


def test_no_credentials(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")
    with pytest.raises(Denied, match="AWS_ACCESS_KEY_ID"):
        open_store(s3).get("x")


@pytest.mark.s3
def test_on_a_real_server_versions_are_as_of_an_instant(s3_versioned: str) -> None:
    store = open_store(s3_versioned)
    store.put("changed", b"old")
    store.put("deleted", b"old")
    time.sleep(2)
    between = datetime.now(UTC)
    time.sleep(2)
    store.put("changed", b"newer")
    store.delete("deleted")
    store.put("added", b"new")

    then = {found.key: found for found in store.list_as_of("", between) or ()}
    assert {key: store.get(key, found.version) for key, found in then.items()} == {"changed": b"old", "deleted": b"old"}
    now = {found.key for found in store.list_as_of("", datetime.now(UTC) + timedelta(seconds=5)) or ()}
    assert now == {"changed", "added"}


@pytest.mark.s3
@pytest.mark.timeout(900)
def test_on_a_real_server_ten_thousand_odd_keys(s3: str) -> None:
    odd = [*ODD_KEYS, "a//b", "a/../b", "./c", "-", "+", "&amp;", "tab\there", "?query=1#part", "ümlaut", " ends with "]
    keys = [f"{number:05}/{odd[number % len(odd)]}" for number in range(10_000)]
    store = open_store(s3)
    store.put_many((key, key.encode()) for key in keys)
    assert sorted(found.key for found in store.list()) == sorted(keys)
    assert all(data == key.encode() for key, data in store.get_many(keys[::7]))
    store.delete_many(keys)
    assert list(store.list()) == []


@pytest.mark.s3
def test_wrong_credentials(s3: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(Denied, match="access denied"):
        open_store(s3).get("x")


def test_versions_are_told_apart_and_deleted_objects_found(s3_versioned: str) -> None:
    store = open_store(s3_versioned)
    assert isinstance(store, S3Store)
    store.put("kept", b"1")
    store.put("deleted", b"1")
    store.delete("deleted")

    now = list(store.list_as_of("", datetime.now(UTC).replace(year=2100)) or ())
    assert [found.key for found in now] == ["kept"]
    assert now[0].version
    assert store.get("kept", now[0].version) == b"1"
    assert list(store.list_as_of("", datetime(2000, 1, 1, tzinfo=UTC)) or ()) == []


def test_without_versions_there_is_no_listing_as_of(any_store: Store) -> None:
    assert any_store.list_as_of("", datetime.now(UTC)) is None


@pytest.mark.parametrize("uri", ["ftp://host/folder", "s3://"])
def test_a_uri_that_can_not_be_opened(uri: str) -> None:
    with pytest.raises(ParamsError, match=r"expected|names no bucket"):
        open_store(uri)


def test_a_key_can_not_leave_the_folder(tmp_path: Path) -> None:
    store = LocalStore(tmp_path / "store")
    for key in ("../outside", "/etc/passwd", "a/../../outside"):
        with pytest.raises(ParamsError, match="leads out of"):
            store.put(key, b"")


def test_links_in_a_circle_end(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "file").write_bytes(b"x")
    (tmp_path / "a" / "loop").symlink_to(tmp_path)
    (tmp_path / "b").symlink_to(tmp_path / "a")
    (tmp_path / "self").symlink_to(tmp_path / "self")
    (tmp_path / "broken").symlink_to(tmp_path / "nothing")

    assert [found.key for found in LocalStore(tmp_path).list()] == ["a/file", "b/file"]


def test_links_that_lead_nowhere_are_listed_where_they_are_asked_for(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"x")
    links = {"broken": "nothing", "circular": "circular", "through": "file/below"}
    for name, target in links.items():
        (tmp_path / name).symlink_to(target)
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "to-pipe").symlink_to("pipe")
    store = LocalStore(tmp_path)

    assert [found.key for found in store.list()] == ["file"]
    assert [found.key for found in store.list(broken_links=True)] == ["broken", "circular", "file", "through"]
    assert [found.key for found in store.list("br", broken_links=True)] == ["broken"]
    for name in links:
        assert not store.exists(name)
        with pytest.raises(NotFound, match=rf"Reading {name} in .*: there is no such file \(.*{name}"):
            store.get(name)
        with pytest.raises(NotFound, match=f"Copying {name} of "):
            store.download(name, tmp_path / "copy")


@pytest.mark.parametrize("target", ["nothing", "link"], ids=["broken", "circular"])
def test_nothing_is_created_where_a_link_leads_nowhere(tmp_path: Path, target: str) -> None:
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(Unusable, match=r"Writing link in .*: .*link is a link that leads nowhere"):
        LocalStore(tmp_path).create("link", b"x")
    assert [path.name for path in tmp_path.iterdir()] == ["link"]


def test_no_temporary_file_is_left(tmp_path: Path) -> None:
    store = LocalStore(tmp_path)
    store.put("a", b"1")
    store.create("a", b"2")
    store.replace("a", b"2", "stale")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".lock", "a"]


@pytest.mark.parametrize("kind", ["s3", "s3_versioned"])
def test_a_long_listing_is_read_by_folders_and_holds_the_same(
    request: pytest.FixtureRequest, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = open_store(request.getfixturevalue(kind))
    keys = [f"{folder}{name}" for folder in ("", "a/", "a/b/", "c//", "한/") for name in ("1", "2 &", "3", "4")]
    store.put_many((key, key.encode()) for key in [*keys, "a/5", "gone/1"])
    store.put("a/1", b"another")
    for key in ("a/5", "gone/1"):
        store.delete(key)
    listed = list(store.list())
    assert sorted(found.key for found in listed) == sorted(keys)
    versions = store.list_as_of("", datetime.max.replace(tzinfo=UTC))
    then = None if versions is None else sorted(versions, key=lambda found: found.key)
    asked: list[dict[str, Any]] = []
    pages = S3Store._pages

    def short(self: S3Store, what: str, name: str, **options: Any) -> Any:
        asked.append(options)
        return pages(self, what, name, **options, MaxKeys=3)

    monkeypatch.setattr(S3Store, "_pages", short)
    assert sorted(store.list(), key=lambda found: found.key) == sorted(listed, key=lambda found: found.key)
    assert {each["Prefix"].rpartition("data/")[2] for each in asked} >= {"a/", "c/", "한/"}
    again = store.list_as_of("", datetime.max.replace(tzinfo=UTC))
    assert (None if again is None else sorted(again, key=lambda found: found.key)) == then
    assert [found.key for found in store.list("a/b")] == [f"a/b/{name}" for name in ("1", "2 &", "3", "4")]


def test_an_unfinished_upload_of_more_parts_than_a_page_holds_is_counted_whole() -> None:
    parts = [{"PartNumber": number, "Size": 8 << 20} for number in range(1, 2502)]
    asked: list[int] = []

    class Client:
        def list_multipart_uploads(self, **_: Any) -> dict[str, Any]:
            upload = {"Key": "store/large.npy", "UploadId": "1", "Initiated": datetime(2026, 1, 1, tzinfo=UTC)}
            return {"IsTruncated": False, "Uploads": [upload]}

        def list_parts(self, PartNumberMarker: int = 0, **_: Any) -> dict[str, Any]:
            assert PartNumberMarker not in asked, "the same page twice"
            asked.append(PartNumberMarker)
            page = parts[PartNumberMarker:][:1000]
            last = page[-1]["PartNumber"]
            return {"IsTruncated": last < len(parts), "NextPartNumberMarker": last, "Parts": page}

        def list_objects_v2(self, **_: Any) -> dict[str, Any]:
            return {"IsTruncated": False}

    store = S3Store("bucket", "store")
    store._own_client = Client()
    (leftover,) = store.leftovers()
    assert (leftover.key, leftover.size) == ("large.npy", len(parts) * (8 << 20))
    assert asked == [0, 1000, 2000]


def test_interleaved_sources_are_read_whole_and_an_error_ends_it() -> None:
    found = list(interleaved((iter(range(start, start + 2500)) for start in (0, 2500, 5000)), threads=2, batch=100))
    assert sorted(found) == list(range(7500))
    assert list(interleaved(iter([]), threads=2)) == []

    def broken() -> Iterator[int]:
        yield 1
        raise StoreError("away")

    endless = itertools.count()
    with pytest.raises(StoreError, match="away"):
        list(interleaved(iter([broken(), endless]), threads=2, batch=1))
    for first in interleaved(iter([itertools.count(), itertools.count()]), threads=2, batch=1):
        assert first == 0
        break  # ends the threads as well
