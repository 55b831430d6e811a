"""A real S3 server is killed in the middle of a step and started again: the step goes on, nothing half-written is read.

GESSO_TEST_S3_KILL and GESSO_TEST_S3_UP are the shell commands that kill it and start it. Nothing else may use it
meanwhile, so this is not for a run of all tests.
"""

import itertools
import os
import subprocess
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from tasks.core.artifacts import MANIFEST, Artifact
from tasks.core.step import execute, load
from tasks.core.store import open_store
from tests.s3_proxy import S3Proxy, proxy_before_bucket  # noqa: F401 - the fixture
from tests.tasks.test_s3_faults import draw_pictures

COMMANDS = [os.environ.get(name, "") for name in ("GESSO_TEST_S3_KILL", "GESSO_TEST_S3_UP")]

pytestmark = [
    pytest.mark.s3,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not all(COMMANDS), reason="GESSO_TEST_S3_KILL and GESSO_TEST_S3_UP are not set"),
]


@pytest.mark.parametrize(
    ("when", "method", "part", "count"),
    [
        ("it reads its images", "GET", "/pictures/", 20),
        ("it uploads its files", "PUT", "/store/artifacts/scan/", 0),
        ("it commits", "PUT", f"/{MANIFEST}", 0),
    ],
    ids=["read", "upload", "commit"],
)
def test_a_step_goes_on_when_its_server_is_back(
    s3: str, s3_proxy: S3Proxy, when: str, method: str, part: str, count: int
) -> None:
    draw_pictures(f"{s3}/pictures")
    snapshot = execute("snapshot", {}, load("snapshot").params.of({"dataset": f"{s3}/pictures"}), f"{s3}/store")
    reached, turns = threading.Event(), itertools.count()

    def kill(asked: str, path: str) -> bool:
        """At the request that says where the step is: its reply is lost with the server."""
        if asked != method or part not in path or next(turns) != count:
            return False
        subprocess.run(COMMANDS[0], shell=True, check=True)
        reached.set()
        return True

    s3_proxy.lose_reply = kill
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(
            execute, "scan", {"snapshot": snapshot.artifact.uri}, load("scan").params.of({}), f"{s3}/store"
        )
        assert reached.wait(60), f"the step never came to where {when}"
        subprocess.run(COMMANDS[1], shell=True, check=True, stdout=subprocess.DEVNULL, timeout=300)
        scan = running.result(timeout=200).artifact
    assert scan.metrics["images"] == 60
    for name in scan.names():
        assert scan.path(name).is_file(), "its SHA-256 is checked here"
    store = open_store(f"{s3}/store")
    for found in store.list("artifacts/"):
        if found.key.endswith(f"/{MANIFEST}"):
            assert Artifact.open(f"{store.uri}/{found.key}").is_whole()
    again = execute("scan", {"snapshot": snapshot.artifact.uri}, load("scan").params.of({}), f"{s3}/store")
    assert again.reused
