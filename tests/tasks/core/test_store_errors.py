"""What a person reads when a bucket can't be used: each answer of a server, as a sentence that says what to do."""

import datetime
import threading
from collections.abc import Callable, Iterator
from email.utils import format_datetime
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from tasks.core.errors import TRY_AGAIN, Archived, Denied, GessoError, NotFound, ParamsError, StoreError, Unusable
from tasks.core.store import LocalStore, Store, open_store

Answering = Callable[..., Store]


def error(code: str, more: str = "") -> str:
    return f"<?xml version='1.0'?><Error><Code>{code}</Code><Message>No.</Message>{more}</Error>"


@pytest.fixture
def answering(monkeypatch: pytest.MonkeyPatch) -> Iterator[Answering]:
    """A store whose server gives one answer, whatever it is asked: answering(403, error("AccessDenied"))."""
    servers: list[ThreadingHTTPServer] = []

    def start(status: int, body: str, **more: str) -> Store:
        headers = ({} if "<html>" in body else {"x-amz-request-id": "1"}) | more

        class Handler(BaseHTTPRequestHandler):
            def log_message(self, *args: object) -> None:
                pass

            def answer(self) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    self.send_header(name.replace("_", "-"), value)
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(body.encode())

            do_GET = do_PUT = do_DELETE = do_HEAD = do_POST = answer

        server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        servers.append(server)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        for name, value in {
            "AWS_ENDPOINT_URL": f"http://127.0.0.1:{server.server_port}",
            "AWS_ACCESS_KEY_ID": "key",
            "AWS_SECRET_ACCESS_KEY": "secret",
            "AWS_DEFAULT_REGION": "us-east-1",
        }.items():
            monkeypatch.setenv(name, value)
        return open_store("s3://bucket/data")

    yield start
    for server in servers:
        server.shutdown()
        server.server_close()


def failure(act: Callable[[], object], kind: type[GessoError]) -> str:
    with pytest.raises(kind) as caught:
        act()
    assert type(caught.value) is kind
    return str(caught.value)


@pytest.mark.parametrize("code", ["AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch"])
def test_403(answering: Answering, code: str) -> None:
    message = failure(lambda: answering(403, error(code)).get("a.json"), Denied)
    assert f"Reading s3://bucket/data/a.json: access denied ({code}). Check AWS_ACCESS_KEY_ID" in message


def test_403_to_what_is_archived(answering: Answering) -> None:
    message = failure(lambda: answering(403, error("InvalidObjectState")).get("a.jpg"), Archived)
    assert "Reading s3://bucket/data/a.jpg: the object is archived (InvalidObjectState). Restore it, or" in message


def test_403_to_a_head_says_what_else_it_can_mean(answering: Answering) -> None:
    assert "s3:ListBucket" in failure(lambda: answering(403, "").exists("a"), Denied)


def test_expired_credentials(answering: Answering) -> None:
    message = failure(lambda: answering(400, error("ExpiredToken")).put("a", b""), Denied)
    assert "credentials have expired" in message


def test_404_of_an_object_and_of_the_bucket(answering: Answering) -> None:
    assert "there is no such object" in failure(lambda: answering(404, error("NoSuchKey")).get("a"), NotFound)
    for act in ("list", "write", "replace"):
        store = answering(404, error("NoSuchBucket"))
        acts: dict[str, Callable[[], object]] = {
            "list": lambda store=store: list(store.list()),
            "write": lambda store=store: store.put("a", b""),
            "replace": lambda store=store: store.replace("a", b"", "1"),
        }
        assert "there is no bucket 'bucket'. Create it, or correct the URI." in failure(acts[act], NotFound)


@pytest.mark.parametrize(
    ("status", "code", "more"),
    [(400, "AuthorizationHeaderMalformed", "<Region>eu-west-1</Region>"), (301, "PermanentRedirect", "")],
)
def test_wrong_region(answering: Answering, status: int, code: str, more: str) -> None:
    headers = {} if more else {"x-amz-bucket-region": "eu-west-1"}
    message = failure(lambda: answering(status, error(code, more), **headers).get("a"), Unusable)
    assert "in another region. Set AWS_DEFAULT_REGION=eu-west-1." in message


def test_clock_skew_says_by_how_much(answering: Answering) -> None:
    there = datetime.datetime.now(datetime.UTC) - datetime.timedelta(hours=2)
    store = answering(403, error("RequestTimeTooSkewed"), Date=format_datetime(there, usegmt=True))
    message = failure(lambda: store.get("a"), Unusable)
    assert "This machine's clock says" in message
    assert "120 minutes apart" in message
    assert "Set the clock" in message


@pytest.mark.parametrize("status", [200, 404, 403])
@pytest.mark.parametrize("act", ["get", "get_with_etag", "list", "create"])
def test_an_address_where_something_else_answers(answering: Answering, status: int, act: str) -> None:
    store = answering(status, "<html><body>Welcome to the intranet<br></body></html>")
    acts: dict[str, Callable[[], object]] = {
        "get": lambda: store.get("a"),
        "get_with_etag": lambda: store.get_with_etag("a"),
        "list": lambda: list(store.list()),
        "create": lambda: store.create("a", b""),
    }
    with pytest.raises(StoreError, match=r"Is AWS_ENDPOINT_URL right\?"):
        acts[act]()


def test_https_where_http_is_spoken(answering: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(200, "")
    port = __import__("os").environ["AWS_ENDPOINT_URL"].rpartition(":")[2]
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://127.0.0.1:{port}")
    message = failure(lambda: open_store("s3://bucket").get("a"), Unusable)
    assert "http:// or https://" in message


def test_a_malformed_address(answering: Answering, monkeypatch: pytest.MonkeyPatch) -> None:
    answering(200, "")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "localhost")
    assert "AWS_ENDPOINT_URL" in failure(lambda: open_store("s3://bucket").get("a"), ParamsError)


def test_a_malformed_bucket(answering: Answering) -> None:
    answering(200, "")
    assert "Invalid bucket name" in failure(lambda: open_store("s3://Bucket Name!").get("a"), ParamsError)


@pytest.mark.parametrize(
    ("status", "code"),
    [(500, "InternalError"), (503, "SlowDown"), (503, "ServiceUnavailable"), (429, "TooManyRequests"), (502, "")],
)
def test_what_may_pass_can_be_tried_again(
    answering: Answering, monkeypatch: pytest.MonkeyPatch, status: int, code: str
) -> None:
    monkeypatch.setattr("time.sleep", lambda _: None)
    monkeypatch.setattr("tasks.core.s3_store.PATIENCE", 0)
    message = failure(lambda: answering(status, error(code) if code else "").get("a"), StoreError)
    assert f"({status})" in message
    assert StoreError.exit_status == TRY_AGAIN != Unusable.exit_status


def test_a_server_without_conditional_requests(answering: Answering) -> None:
    message = failure(lambda: answering(501, error("NotImplemented")).create("a", b""), Unusable)
    assert "no conditional requests" in message


def test_a_server_without_versions_has_no_listing_as_of(answering: Answering) -> None:
    store = answering(501, error("NotImplemented"))
    assert store.list_as_of("", datetime.datetime.now(datetime.UTC)) is None


def test_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def link(source: object, target: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("os.link", link)
    store = LocalStore(tmp_path / "store")
    for act in (store.check, lambda: store.create("a", b"")):
        assert "no hard links" in failure(act, Unusable)
    assert list(store.leftovers()) == []


def test_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(source: object, target: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    assert "the disk is full" in failure(lambda: LocalStore(tmp_path).put("a", b""), StoreError)
