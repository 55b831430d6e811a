"""A network and a server that fail: what Gesso does through them ends well, or says why and leaves nothing half-done.

Against moto's server, and a real one under the marker `s3`, behind the proxy of `tests/s3_proxy.py`.
"""

import itertools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
import pytest

from tasks.core import s3_store
from tasks.core.artifacts import Artifact
from tasks.core.errors import TRY_AGAIN, NotFound, StoreError, Unusable
from tasks.core.step import execute, load
from tasks.core.store import open_store
from tests.s3_proxy import S3Proxy, never, proxy_before_bucket  # noqa: F401 - the fixture
from tests.tasks.test_on_s3 import chain

both_servers = pytest.mark.parametrize("server", ["moto", pytest.param("real", marks=pytest.mark.s3)])


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(s3_store, "PAUSE", 0.3)
    monkeypatch.setattr(s3_store, "READ_SECONDS", 1)
    yield
    s3_store._checked.clear()


def writes(proxy: S3Proxy) -> list[str]:
    return [path for method, path, _ in proxy.requests if method == "PUT"]


def put(*names: str) -> Callable[[str, str], bool]:
    """The rule for writes of these objects."""
    return lambda method, path: method == "PUT" and path.split("?")[0].endswith(names)


def get(*names: str) -> Callable[[str, str], bool]:
    return lambda method, path: method == "GET" and path.split("?")[0].endswith(names)


def draw_pictures(uri: str) -> None:
    """A data set of two classes."""
    rng, data = np.random.default_rng(0), open_store(uri)
    for label, number in itertools.product(range(2), range(30)):
        picture = np.full((48, 48, 3), 255, np.uint8)
        left, top = (int(value) for value in rng.integers(2, 20, 2))
        cv2.rectangle(picture, (left, top), (left + 24, top + 22), ((200, 60, 40), (40, 60, 200))[label], -1)
        picture[rng.integers(0, 48, 12), rng.integers(0, 48, 12)] = rng.integers(0, 255, (12, 3))
        data.put(f"class {label}/{number}.png", cv2.imencode(".png", picture)[1].tobytes())


@pytest.mark.faults
@both_servers
def test_the_chain_runs_through_a_server_that_answers_every_third_request_with_503(
    server: str, s3: str, s3_proxy: S3Proxy
) -> None:
    draw_pictures(f"{s3}/pictures")
    s3_proxy.fail_share, s3_proxy.fail_code = 0.3, b"ServiceUnavailable"
    made = chain(f"{s3}/pictures", f"{s3}/store")
    s3_proxy.fail_share = 0
    assert s3_proxy.faults > 30
    assert all(artifact.is_whole() for artifact, _ in made.values())
    again = chain(f"{s3}/pictures", f"{s3}/store")
    assert all(reused for _, reused in again.values())
    assert list(open_store(f"{s3}/store").leftovers()) == []


@both_servers
def test_a_commit_whose_reply_was_lost_is_a_success(server: str, s3: str, s3_proxy: S3Proxy) -> None:
    store = open_store(s3)
    store.check()
    s3_proxy.lose_reply = s3_proxy.times(1, put("artifact.json"))
    assert store.create("a/artifact.json", b"mine")
    assert len(writes(s3_proxy)) - 3 == 2, "written, and tried once more"
    assert s3_proxy.faults == 1
    assert not store.create("a/artifact.json", b"another's")
    assert store.get("a/artifact.json") == b"mine"


@both_servers
def test_a_champion_whose_reply_was_lost_was_moved_once(server: str, s3: str, s3_proxy: S3Proxy) -> None:
    store = open_store(s3)
    store.create("champion", b"1")
    _, etag = store.get_with_etag("champion")
    s3_proxy.lose_reply = s3_proxy.times(1, put("champion"))
    assert store.replace("champion", b"2", etag)
    assert not store.replace("champion", b"2", etag), "the same bytes, but not this call's"


@both_servers
def test_no_increment_is_lost_or_doubled_where_replies_are(server: str, s3: str, s3_proxy: S3Proxy) -> None:
    store = open_store(s3)
    store.put("counter", b"0")
    turns = itertools.count()
    s3_proxy.lose_reply = lambda method, path: put("counter")(method, path) and next(turns) % 3 == 0

    for number in range(1, 10):
        data, etag = store.get_with_etag("counter")
        assert store.replace("counter", str(int(data) + 1).encode(), etag)
        assert store.get("counter") == str(number).encode()
    assert s3_proxy.faults >= 5


@both_servers
def test_an_answer_that_breaks_off_or_was_damaged_is_read_again(
    server: str, s3: str, s3_proxy: S3Proxy, tmp_path: Path
) -> None:
    store, data = open_store(s3), os.urandom(200_000)
    store.put("small", data)
    for rule in ("cut", "damage"):
        setattr(s3_proxy, rule, s3_proxy.times(2, get("small")))
        assert store.get("small") == data
        setattr(s3_proxy, rule, s3_proxy.times(2, get("small")))
        store.download("small", tmp_path / rule)
        assert (tmp_path / rule).read_bytes() == data
    assert s3_proxy.faults == 8
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["cut", "damage"]


def readers(proxy: S3Proxy) -> list[str]:
    """By what each object was read: obstore or boto3."""
    asked = [headers for method, path, headers in proxy.requests if method == "GET" and "list-type" not in path]
    return ["boto3" if "Boto3" in headers.get("User-Agent", "") else "obstore" for headers in asked]


@both_servers
def test_obstore_reads_what_is_as_usual_and_boto3_the_rest(
    server: str, s3: str, s3_proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    store, plain, data = open_store(s3), "a 한%20+.png", os.urandom(1000)
    for key in (plain, "a//b.png", "a/../b.png"):
        store.put(key, data)
        assert store.get(key) == data
    assert readers(s3_proxy) == ["obstore", "boto3", "boto3"]
    with pytest.raises(NotFound, match="there is no such object"):
        store.get("nothing")

    s3_proxy.requests.clear()
    for _ in range(s3_store.DIRECT_TRIES):
        s3_proxy.damage = s3_proxy.times(1, get("png"))
        assert store.get(plain) == data
    assert readers(s3_proxy) == ["obstore", "boto3"] * s3_store.DIRECT_TRIES
    s3_proxy.requests.clear()
    assert store.get(plain) == data
    assert readers(s3_proxy) == ["boto3"], "obstore is not asked for a while"
    monkeypatch.setattr(store, "_direct_from", 0.0)
    s3_proxy.requests.clear()
    assert store.get(plain) == data
    assert readers(s3_proxy) == ["obstore"]


def test_a_forked_process_reads_by_boto3(s3: str, s3_proxy: S3Proxy) -> None:
    store = open_store(s3)
    store.put("a", b"1")
    assert store.get("a") == b"1"
    child = os.fork()
    if child == 0:
        os._exit(0 if open_store(s3).get("a") == b"1" else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert readers(s3_proxy) == ["obstore", "boto3"]
    assert store.get("a") == b"1"


@both_servers
def test_a_large_file_goes_in_parts_through_faults(
    server: str, s3: str, s3_proxy: S3Proxy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(s3_store, "READ_SECONDS", 30)
    store, source = open_store(s3), tmp_path / "large"
    source.write_bytes(os.urandom(s3_store.LARGE + 5_000_000))
    data = source.read_bytes()
    s3_proxy.lose_reply = s3_proxy.times(2, put("large"))
    store.upload(source, "large")
    assert s3_proxy.faults == 2
    s3_proxy.cut = s3_proxy.times(3, get("large"))
    store.download("large", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == data
    assert len({path for path in writes(s3_proxy) if "partNumber" in path}) == 3
    assert list(store.leftovers()) == []


def test_what_is_written_carries_a_checksum(s3: str, s3_proxy: S3Proxy) -> None:
    open_store(s3).put("a", b"1")
    _, _, headers = next(request for request in s3_proxy.requests if request[0] == "PUT")
    assert {name.lower() for name in headers} & {"x-amz-checksum-crc32", "x-amz-trailer"}


@both_servers
@pytest.mark.parametrize("fault", ["refuse", "swallow"])
def test_a_network_that_is_cut_for_a_while_is_waited_for(server: str, s3: str, s3_proxy: S3Proxy, fault: str) -> None:
    store = open_store(s3)
    store.put("before", b"")
    setattr(s3_proxy, fault, True)
    back = threading.Timer(4, setattr, (s3_proxy, fault, False))
    back.start()
    store.put_many((f"many/{number:03}", str(number).encode()) for number in range(200))
    back.join()
    assert s3_proxy.faults > 0
    assert {key: int(data) for key, data in store.get_many(f"many/{n:03}" for n in range(200))} == {
        f"many/{number:03}": number for number in range(200)
    }


def test_a_network_that_stays_cut_is_given_up(s3: str, s3_proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(s3_store, "PATIENCE", 1)
    store = open_store(s3)
    store.put("before", b"")
    s3_proxy.refuse = True
    with pytest.raises(StoreError, match=r"AWS_ENDPOINT_URL right, and the server up") as caught:
        store.put_many((f"many/{number}", b"") for number in itertools.count())
    assert caught.value.exit_status == TRY_AGAIN
    s3_proxy.refuse = False
    assert store.get("before") == b""


def test_a_step_that_loses_its_store_leaves_nothing_half_written(
    s3: str, s3_proxy: S3Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The network goes for good when the step commits; the next run completes."""
    monkeypatch.setattr(s3_store, "PATIENCE", 1)
    draw_pictures(f"{s3}/pictures")
    params = load("snapshot").params.of({"dataset": f"{s3}/pictures"})
    for files_written in range(3):
        left = itertools.count()

        def cut(method: str, path: str, left: Iterator[int] = left, allowed: int = files_written) -> bool:
            s3_proxy.refuse |= "/store/artifacts/" in path and method == "PUT" and next(left) >= allowed
            return s3_proxy.refuse

        s3_proxy.lose_reply = cut
        with pytest.raises(StoreError) as caught:
            execute("snapshot", {}, params, f"{s3}/store")
        assert caught.value.exit_status == TRY_AGAIN
        s3_proxy.refuse, s3_proxy.lose_reply = False, never
        found = [found.key for found in open_store(f"{s3}/store").list("artifacts/")]
        if not any(key.endswith("/artifact.json") for key in found):
            continue
        uri = f"{s3}/store/" + next(key for key in found if key.endswith("/artifact.json"))
        assert Artifact.open(uri).is_whole(), "the commit itself came through, its reply did not"
    assert execute("snapshot", {}, params, f"{s3}/store").artifact.is_whole()


@pytest.mark.parametrize("stripped", [("If-None-Match",), ("If-Match",), ("If-None-Match", "If-Match")])
@pytest.mark.parametrize("act", ["check", "create", "replace"])
def test_a_server_that_ignores_conditions_keeps_no_artifacts(
    s3: str, s3_proxy: S3Proxy, stripped: tuple[str, ...], act: str
) -> None:
    s3_proxy.strip = stripped
    store = open_store(s3)
    store.put("data.png", b"1")
    acts: dict[str, Callable[[], object]] = {
        "check": store.check,
        "create": lambda: store.create("new", b""),
        "replace": lambda: store.replace("data.png", b"2", store.get_with_etag("data.png")[1]),
    }
    for _ in range(2):
        with pytest.raises(Unusable, match=r"ignores .*Match.* two runs could overwrite each other's artifacts"):
            acts[act]()
    s3_proxy.strip = ()
    assert [found.key for found in store.list()] == ["data.png"], "data sets may stay there"
    assert store.get("data.png") == b"1"
    assert list(store.leftovers()) == []


def test_a_step_refuses_such_a_server(s3: str, s3_proxy: S3Proxy) -> None:
    draw_pictures(f"{s3}/pictures")
    s3_proxy.strip = ("If-None-Match",)
    params = load("snapshot").params.of({"dataset": f"{s3}/pictures"})
    with pytest.raises(Unusable, match="GESSO_STORE"):
        execute("snapshot", {}, params, f"{s3}/store")
    assert not [found for found in open_store(s3).list("store/") if found.key.endswith("artifact.json")]


@both_servers
def test_many_may_find_out_at_once_and_leave_nothing(
    server: str, s3_proxy: S3Proxy, request: pytest.FixtureRequest
) -> None:
    import boto3

    # Not every real server takes a store beside versions.
    uri: str = request.getfixturevalue("s3" if server == "real" else "s3_versioned")
    barrier = threading.Barrier(16)

    def check(_: int) -> None:
        store = open_store(uri)
        barrier.wait()
        store.check()

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(check, range(16)))
    versions = boto3.Session().client("s3").list_object_versions(Bucket=uri.split("/")[2])
    assert not versions.get("Versions")
    assert not versions.get("DeleteMarkers")

    s3_proxy.requests.clear()
    for number in range(3):
        assert open_store(uri).create(f"a/{number}", b"")
    assert len(s3_proxy.requests) == 3, "found out once in a process"


@both_servers
def test_bulk_work_stops_at_the_first_error(server: str, s3: str, s3_proxy: S3Proxy) -> None:
    store = open_store(s3)
    store.put_many((f"a/{number}", b"1") for number in range(10))
    with pytest.raises(StoreError, match="a/10: there is no such object"):
        list(store.get_many(f"a/{number}" for number in itertools.count()))
    assert len(s3_proxy.requests) < 10 + 10 + 8 * store.threads, "it reads a bounded number ahead"
