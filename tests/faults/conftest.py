"""An Airflow that serves, as `make up` starts it, with processes that can be found and killed."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from tasks.core.artifacts import Artifact
from tasks.core.step import NAMES
from tasks.core.store import Store, open_store
from tests.conftest import ROOT
from tests.include.test_pods_on_cluster import bucket, cluster  # noqa: F401 - fixtures

#: How long a run may take in all, in seconds: it ends a test that would hang, and measures nothing.
PATIENCE = 600

#: Small enough for seconds.
PARAMS = {
    "preset": "demo", "image_size": 32, "min_per_class": 10, "max_per_class": 40, "epochs": 3, "gpus": 0,
    "stop_patience": 1000, "min_macro_f1": 0,
}  # fmt: skip


def wait_for(what: Callable[[], Any], said: str, patience: float = PATIENCE, pause: float = 0.5) -> Any:
    """What `what` returns as soon as that is true."""
    deadline = time.monotonic() + patience
    while not (found := what()):
        assert time.monotonic() < deadline, f"waited in vain for {said}"
        time.sleep(pause)
    return found


def free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


class Airflow:
    """A served Airflow with a home of its own."""

    def __init__(self, home: Path, store: str, **environment: str) -> None:
        self.port, logs, more_logs = free_ports(3)
        self.home, self.store_uri = home, store
        kept = {n: v for n, v in os.environ.items() if not n.startswith(("AIRFLOW", "GESSO_", "AWS_"))}
        self.environment = {
            **kept,
            "GESSO_HOME": str(home),
            "GESSO_STORE": store,
            "GESSO_PORT": str(self.port),
            "GESSO_WORKERS": "1",
            "GESSO_RETRIES": "3",
            "GESSO_RETRY_SECONDS": "1",
            "GESSO_SCHEDULE": "0 0 29 2 *",  # no scheduled run comes between
            "AIRFLOW__LOGGING__WORKER_LOG_SERVER_PORT": str(logs),
            "AIRFLOW__LOGGING__TRIGGER_LOG_SERVER_PORT": str(more_logs),
            # A death is noticed sooner than people need it to be.
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "20",
            "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "2",
            "AIRFLOW__SCHEDULER__ORPHANED_TASKS_CHECK_INTERVAL": "2",
            "AIRFLOW__SCHEDULER__SCHEDULER_HEALTH_CHECK_THRESHOLD": "15",
            "AIRFLOW__TRIGGERER__TRIGGERER_HEALTH_CHECK_THRESHOLD": "15",
            **environment,
        }

    def start(self, dataset: Path | str) -> None:
        self.environment["GESSO_DATASET"] = str(dataset)
        self._serve("up")
        password = json.loads((self.home / "airflow" / "secrets.json").read_text())["password"]
        login = {"username": "admin", "password": password}
        self._token = self.ask("POST", "/auth/token", login)["access_token"]
        wait_for(lambda: self._there("/api/v2/dags/retrain"), "the DAG", pause=1)

    def unpause(self, dag: str = "retrain", paused: bool = False) -> None:
        self.ask("PATCH", f"/api/v2/dags/{dag}", {"is_paused": paused})

    def stop(self) -> None:
        self._serve("down")

    def _serve(self, what: str) -> None:
        command = [sys.executable, "-m", "include.serve", what]
        log = self.home / "serve.txt"  # no pipe: what `up` leaves running would hold it open
        with log.open("a") as output:
            done = subprocess.run(
                command, cwd=ROOT, env=self.environment, stdout=output, stderr=subprocess.STDOUT, check=False
            )
        assert done.returncode == 0, log.read_text()

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        """The API's answer."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", method=method)
        request.add_header("Content-Type", "application/json")
        if hasattr(self, "_token"):
            request.add_header("Authorization", f"Bearer {self._token}")
        with urllib.request.urlopen(request, json.dumps(body).encode() if body else None, timeout=60) as answer:
            return json.load(answer)

    def _there(self, path: str) -> bool:
        try:
            return bool(self.ask("GET", path))
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return False
            raise

    def is_healthy(self) -> bool:
        """Whether each part has been heard of lately."""
        try:
            health = self.ask("GET", "/api/v2/monitor/health")
        except OSError:
            return False
        return all(part["status"] == "healthy" for part in health.values())

    def settles(self) -> None:
        """Wait until no task runs and the scheduler knows of the end of each."""

        def is_idle() -> bool:
            titles = (" ".join(child.cmdline()) for child in self.supervisor().children(recursive=True))
            return all("<idle>" in title for title in titles if "LocalExecutor:" in title)

        def heartbeat() -> str:
            health: dict[str, Any] = self.ask("GET", "/api/v2/monitor/health")
            return str(health["scheduler"]["latest_scheduler_heartbeat"])

        wait_for(is_idle, "the end of all tasks")
        for _ in range(2):  # the first may end a round that began before
            last = heartbeat()
            wait_for(lambda last=last: heartbeat() != last, "the scheduler's next round")

    def trigger(self, **params: Any) -> "Run":
        """Start a run, as the Trigger button does."""
        body = {"logical_date": None, "conf": PARAMS | params}
        return Run(self, self.ask("POST", "/api/v2/dags/retrain/dagRuns", body)["dag_run_id"])

    @property
    def store(self) -> Store:
        return open_store(self.store_uri)

    def supervisor(self) -> psutil.Process:
        return psutil.Process(int((self.home / "airflow" / "serve.pid").read_text()))

    def is_down(self, supervisor: int) -> bool:
        """Whether neither the supervisor, nor anything that it started, nor PostgreSQL is there any more."""
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.NoSuchProcess, ProcessLookupError):
                if os.getsid(process.pid) == supervisor and process.status() != psutil.STATUS_ZOMBIE:
                    return False
        return not (self.home / "airflow" / "postgres" / "postmaster.pid").exists()

    def part(self, name: str) -> psutil.Process:
        """The process of a part: api-server, scheduler, dag-processor or triggerer."""

        def find() -> psutil.Process | None:
            for child in self.supervisor().children():
                with contextlib.suppress(psutil.NoSuchProcess):
                    if re.search(rf"airflow {name.replace('-', '[-_]')}\b", " ".join(child.cmdline())):
                        return child
            return None

        found: psutil.Process = wait_for(find, name)
        return found

    def log(self) -> str:
        return (self.home / "airflow" / "serve.log").read_text(errors="replace")

    def at_work(self, step: str) -> psutil.Process | None:
        """The process that is in the middle of a step on this machine: the one that locks the step's scratch folder."""
        locked = {
            int(words[5].split(":")[2]): int(words[4])
            for words in map(str.split, Path("/proc/locks").read_text().splitlines())
            if words[1] == "FLOCK"
        }
        for lock in (self.home / "scratch" / "work").glob(f"{step}-*.lock"):
            try:
                pid = locked.get(lock.stat().st_ino)
                if pid and lock.with_suffix("").is_dir():
                    return psutil.Process(pid)
            except (FileNotFoundError, psutil.NoSuchProcess):
                continue
        return None

    def worker_of(self, run: "Run", task: str) -> psutil.Process | None:
        """The process that Airflow runs a task in, while there is one; its parent watches over it."""
        title = f"airflow worker -- {run.task(task).get('id')}"
        for process in psutil.process_iter(["cmdline"]):
            if " ".join(process.info["cmdline"] or ()).strip() == title:
                return process
        return None


class Run:
    """A DAG run."""

    def __init__(self, airflow: Airflow, run_id: str) -> None:
        self.airflow, self.run_id = airflow, run_id
        self.path = f"/api/v2/dags/retrain/dagRuns/{urllib.request.quote(run_id)}"

    @property
    def state(self) -> str:
        return str(self.airflow.ask("GET", self.path)["state"])

    def tasks(self) -> dict[str, dict[str, Any]]:
        """The task instances, by task."""
        found = self.airflow.ask("GET", f"{self.path}/taskInstances?limit=100")["task_instances"]
        return {task["task_id"]: task for task in found}

    def task(self, name: str) -> dict[str, Any]:
        return self.tasks().get(name, {"state": None, "try_number": 0})

    def succeeds(self) -> dict[str, dict[str, Any]]:
        """Wait for its end; the task instances by then."""
        try:
            wait_for(lambda: self.state in ("success", "failed"), f"the end of {self.run_id}", pause=1)
        finally:
            tasks = self.tasks()
            print({name: (task["state"], task["try_number"]) for name, task in tasks.items()})
        assert self.state == "success"
        return tasks

    def record(self) -> dict[str, Any]:
        """What the run's record in the store says of each step: artifact, reused, …"""
        record: dict[str, Any] = json.loads(self.airflow.store.get(f"runs/retrain/{self.run_id}.json"))
        return record["steps"]

    def artifacts(self) -> dict[str, Artifact]:
        """The artifact of each step, each whole."""
        record = self.record()
        assert set(record) == set(NAMES)
        made = {name: Artifact.open(record[name][-1]["artifact"]) for name in NAMES}
        for artifact in made.values():
            assert artifact.is_whole()
            for name in artifact.names():
                artifact.path(name)  # raises where the content is not what was committed
        return made


def kill(*processes: psutil.Process) -> None:
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):  # the one before may have taken it along
            process.send_signal(signal.SIGKILL)


def committed(store: Store, step: str) -> list[Artifact]:
    """All artifacts of a step."""
    keys = {found.key.split("/")[2] for found in store.list(f"artifacts/{step}/")}
    return [artifact for key in sorted(keys) if (artifact := Artifact.find(store, step, key))]


def strays(store: Store, step: str) -> set[str]:
    """Files of a step that belong to no artifact, and what artifacts lack."""
    made = committed(store, step)
    listed = {artifact.key_of(name) for artifact in made for name in artifact.names()}
    listed |= {f"{artifact.folder}/artifact.json" for artifact in made}
    return {found.key for found in store.list(f"artifacts/{step}/")} ^ listed


@contextlib.contextmanager
def home_of_its_own() -> Iterator[Path]:
    """A home for a served Airflow.

    Not below pytest's own folder: every pytest that starts closes that one to other users, and PostgreSQL is one.
    """
    with tempfile.TemporaryDirectory(prefix="gesso-served-", ignore_cleanup_errors=True) as folder:
        yield Path(folder)


@pytest.fixture(scope="module")
def served_home() -> Iterator[Path]:
    with home_of_its_own() as home:
        yield home


@pytest.fixture(scope="module")
def airflow(served_home: Path, dataset: Path) -> Iterator[Airflow]:
    """An Airflow that trains beside the worker and keeps artifacts in a folder."""
    served = Airflow(served_home, str(served_home / "store"))
    try:
        served.start(dataset)
        served.unpause()
        yield served
    finally:
        served.stop()
