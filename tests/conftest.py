"""What tests share: a throwaway Airflow, a store in a temporary folder, an S3 server, and running a step."""

import os
import tempfile
import time
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tasks.core import settings as settings_module
from tasks.core.artifacts import Artifact
from tasks.core.step import execute, load
from tasks.core.store import LocalStore, Store, open_store

ROOT = Path(__file__).parents[1]

#: Airflow reads this when it is imported: a home of the tests' own, with SQLite.
os.environ |= {
    "AIRFLOW_HOME": tempfile.mkdtemp(prefix="airflow-"),
    "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),  # `dag.test()` looks for the DAG in the bundle that owns it
    "AIRFLOW__CORE__PLUGINS_FOLDER": str(ROOT / "plugins"),
    "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
    "AIRFLOW__DATABASE__LOAD_DEFAULT_CONNECTIONS": "False",
    "AIRFLOW__LOGGING__LOGGING_LEVEL": "WARNING",
}


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A Gesso home of the test's own."""
    folder = tmp_path / "gesso"
    for name in [name for name in os.environ if name.startswith("GESSO_") and not name.startswith("GESSO_TEST_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("GESSO_HOME", str(folder))
    monkeypatch.setenv("GESSO_WORKERS", "2")
    settings_module.settings.cache_clear()
    yield folder
    settings_module.settings.cache_clear()


@pytest.fixture
def store(home: Path) -> LocalStore:
    """The store that `run_step` uses."""
    return LocalStore(home / "store")


@pytest.fixture
def run_step(store: LocalStore) -> Callable[..., Artifact]:
    """Runs a real step: run_step("scan", {"snapshot": snapshot}, max_megapixels=1)."""

    return partial(run_in, store)


def run_in(
    store: Store, name: str, inputs: dict[str, Artifact | list[Artifact]] | None = None, **params: Any
) -> Artifact:
    """Run a real step in a store."""
    uris = {
        given: value.uri if isinstance(value, Artifact) else [each.uri for each in value]
        for given, value in (inputs or {}).items()
    }
    return execute(name, uris, load(name).params.of(params), store.uri).artifact


#: A real S3 server's address and keys, where the environment names one: for the tests marked `s3`.
REAL_S3 = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}


#: What the tests of a marker want of the environment.
SERVERS = {
    "s3": ("a real S3 server", ("AWS_ENDPOINT_URL",)),
    "kubernetes": ("a cluster", ("KUBECONFIG",)),
    "trainer": ("a trainer image in the cluster", ("GESSO_TEST_TRAINER", "GESSO_TEST_POD_S3")),
    "docker": ("a Docker engine", ("DOCKER_HOST",)),
    "realdata": ("a data set whose truth is known", ("GESSO_TEST_DATA",)),
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leave out the tests that want a server or data that isn't there."""
    for marker, (server, names) in SERVERS.items():
        absent = [name for name in names if name not in os.environ]
        for item in items:
            if absent and item.get_closest_marker(marker):
                item.add_marker(pytest.mark.skip(reason=f"wants {server}: {', '.join(absent)} not set"))


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin no test of minutes after `GESSO_TEST_UNTIL` (seconds since 1970), so that CI ends in time."""
    until = float(os.environ.get("GESSO_TEST_UNTIL", "inf"))
    if time.time() > until and (item.get_closest_marker("faults") or item.get_closest_marker("browser")):
        pytest.skip("no time is left for it: GESSO_TEST_UNTIL is past")


@pytest.fixture(scope="session")
def moto_address() -> Iterator[str]:
    """The address of an S3 server in this process."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def s3_bucket(request: pytest.FixtureRequest, moto_address: str, monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a fresh bucket, with the environment set for it: on the real server under the marker `s3`."""
    import boto3

    moto = {
        "AWS_ENDPOINT_URL": moto_address,
        "AWS_ACCESS_KEY_ID": "testkey",
        "AWS_SECRET_ACCESS_KEY": "testsecret",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    for name, value in (REAL_S3 if request.node.get_closest_marker("s3") else moto).items():
        monkeypatch.setenv(name, value)
    bucket = f"gesso-{uuid.uuid4().hex[:12]}"
    boto3.Session().client("s3").create_bucket(Bucket=bucket)
    return bucket


@pytest.fixture
def s3(s3_bucket: str) -> str:
    """A fresh s3://bucket/prefix without versions."""
    return f"s3://{s3_bucket}/data"


@pytest.fixture
def s3_versioned(s3_bucket: str) -> str:
    """A fresh s3://bucket/prefix in a bucket that keeps versions."""
    import boto3

    boto3.Session().client("s3").put_bucket_versioning(Bucket=s3_bucket, VersioningConfiguration={"Status": "Enabled"})
    return f"s3://{s3_bucket}/data"


@pytest.fixture(params=["folder", "s3", pytest.param("real-s3", marks=pytest.mark.s3)])
def any_store(request: pytest.FixtureRequest, home: Path) -> Store:
    """A store of each kind; the folder is the one that commands use by themselves."""
    return open_store(home / "store" if request.param == "folder" else request.getfixturevalue("s3"))


@pytest.fixture(params=["folder", pytest.param("real-s3", marks=pytest.mark.s3)])
def atomic_store(request: pytest.FixtureRequest, home: Path) -> Store:
    """A store to race in: moto's server lets two conditional writes win now and then."""
    return open_store(home / "store" if request.param == "folder" else request.getfixturevalue("s3"))


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small demo data set, for tests that run the whole workflow."""
    from tasks.demo import make_demo

    folder = tmp_path_factory.mktemp("data") / "demo"
    make_demo(folder, images=300)
    return folder
