"""A proxy before an S3 server that does what networks and servers do: fails, loses replies, cuts, hangs, damages.

def test_it(s3: str, s3_proxy: S3Proxy) -> None:      # after `s3`: AWS_ENDPOINT_URL is the proxy's from here on
    s3_proxy.fail_share = 0.3
"""

import http.client
import os
import random
import socket
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

import pytest

#: Whether a rule is for a request, by its method and path.
Matches = Callable[[str, str], bool]

BUSY = b"<Error><Code>%s</Code><Message>Reduce your request rate.</Message></Error>"


def never(method: str, path: str) -> bool:
    return False


@dataclass
class S3Proxy:
    """The rules, to be changed while it runs, and what was asked so far."""

    upstream: str
    fail_share: float = 0.0  # of requests, answered with 503 without asking the server
    fail_code: bytes = b"SlowDown"
    lose_reply: Matches = never  # the server does it; the connection ends without an answer
    cut: Matches = never  # the answer ends in its middle
    damage: Matches = never  # one bit of the answer's body is another
    refuse: bool = False  # connections end at once
    swallow: bool = False  # requests are read and never answered
    strip: tuple[str, ...] = ()  # request headers that the server doesn't get to see
    requests: list[tuple[str, str, dict[str, str]]] = field(default_factory=list)  # method, path, headers
    faults: int = 0
    address: str = ""
    _random: random.Random = field(default_factory=lambda: random.Random(0))

    def times(self, count: int, matches: Matches) -> Matches:
        """The rule for the first `count` requests that match."""
        left, lock = [count], threading.Lock()

        def first(method: str, path: str) -> bool:
            with lock:
                if left[0] == 0 or not matches(method, path):
                    return False
                left[0] -= 1
                return True

        return first

    def serve(self) -> ThreadingHTTPServer:
        proxy, address = self, urlsplit(self.upstream)

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            timeout = 120

            def log_message(self, *args: object) -> None:
                pass

            def handle_expect_100(self) -> bool:
                return proxy.refuse or super().handle_expect_100()

            def answer(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0)) if not proxy.refuse else b""
                proxy.requests.append((self.command, self.path, dict(self.headers)))
                if proxy.refuse:
                    return self.hang_up()
                if proxy.swallow:
                    while proxy.swallow:
                        time.sleep(0.01)
                    return self.hang_up()
                if proxy._random.random() < proxy.fail_share:
                    proxy.faults += 1
                    return self.reply(503, [], b"" if self.command == "HEAD" else BUSY % proxy.fail_code)
                dropped = {name.lower() for name in (*proxy.strip, "Expect", "Connection")}
                server = http.client.HTTPConnection(address.hostname or "", address.port, timeout=120)
                try:
                    server.putrequest(self.command, self.path, skip_host=True, skip_accept_encoding=True)
                    for name, value in self.headers.items():
                        if name.lower() not in dropped:
                            server.putheader(name, value)
                    server.endheaders(body)
                    response = server.getresponse()
                    content = response.read()
                finally:
                    server.close()
                if proxy.lose_reply(self.command, self.path):
                    return self.hang_up()
                headers = [(name, value) for name, value in response.getheaders() if name.lower() not in HOP]
                if content and proxy.damage(self.command, self.path):
                    proxy.faults += 1
                    content = bytes([content[0] ^ 1]) + content[1:]
                if content and proxy.cut(self.command, self.path):
                    headers.append(("Connection", "close"))
                    self.reply(response.status, headers, content, len(content) // 2)
                    return self.hang_up()
                return self.reply(response.status, headers, content)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

            def reply(self, status: int, headers: list[tuple[str, str]], content: bytes, sent: int = -1) -> None:
                self.send_response_only(status)
                for name, value in headers:
                    self.send_header(name, value)
                length = next((value for name, value in headers if name.lower() == "content-length"), None)
                if length is None:
                    self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(content if sent < 0 else content[:sent])
                    self.wfile.flush()

            def hang_up(self) -> None:
                proxy.faults += 1
                self.close_connection = True
                self.connection.shutdown(socket.SHUT_RDWR)

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128

            def handle_error(self, request: object, client_address: object) -> None:
                """A client that hung up is no error here."""

        return Server(("127.0.0.1", 0), Handler)


HOP = {"connection", "transfer-encoding", "keep-alive"}


@pytest.fixture(name="s3_proxy")
def proxy_before_bucket(s3_bucket: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[S3Proxy]:
    """A proxy before the bucket's server, in the environment from here on."""
    proxy = S3Proxy(os.environ["AWS_ENDPOINT_URL"])
    server = proxy.serve()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    proxy.address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setenv("AWS_ENDPOINT_URL", proxy.address)
    yield proxy
    proxy.swallow = False
    server.shutdown()
    server.server_close()
    thread.join()
