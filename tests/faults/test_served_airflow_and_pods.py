"""Faults while a served Airflow trains in a pod: it is trained once, in one pod, and the run completes.

Wants what tests/include/test_pods_on_cluster.py wants. The pod that is killed itself is tested there.
"""

import contextlib
import json
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import psutil
import pytest

from tasks.core.artifacts import Artifact
from tests.conftest import REAL_S3
from tests.faults.conftest import Airflow, Run, committed, kill, strays, wait_for
from tests.include.test_pods_on_cluster import pods

pytestmark = [
    pytest.mark.faults,
    pytest.mark.kubernetes,
    pytest.mark.s3,
    pytest.mark.trainer,
    pytest.mark.timeout(900),
]

#: Epochs of a training that is long enough to be disturbed.
LONG = 40


class Forwarder:
    """Passes an address that pods reach on to the S3 server, so that their network alone can be cut."""

    def __init__(self, host: str, server: tuple[str, int]) -> None:
        self._server = server
        self._listener = socket.create_server((host, 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:  # closed
                return
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        with client, contextlib.suppress(OSError), socket.create_connection(self._server) as server:
            answers = threading.Thread(target=self._pump, args=(server, client), daemon=True)
            answers.start()
            self._pump(client, server)
            answers.join()

    @staticmethod
    def _pump(source: socket.socket, target: socket.socket) -> None:
        try:
            while data := source.recv(1 << 16):
                target.sendall(data)
            target.shutdown(socket.SHUT_WR)
        except OSError:
            for each in (source, target):
                with contextlib.suppress(OSError):
                    each.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._listener.close()


@pytest.fixture(scope="module")
def way_to_s3() -> Iterator[Forwarder]:
    host, server = urlsplit(os.environ["GESSO_TEST_POD_S3"]).hostname, urlsplit(REAL_S3["AWS_ENDPOINT_URL"])
    try:
        forwarder = Forwarder(host or "", (server.hostname or "", server.port or 80))
    except OSError as error:
        pytest.skip(f"pods reach S3 by {host}, which is not this machine's: {error}")
    with contextlib.closing(forwarder):
        yield forwarder


@pytest.fixture(scope="module")
def airflow(
    served_home: Path,
    dataset: Path,
    cluster: Any,
    bucket: str,
    way_to_s3: Forwarder,
) -> Iterator[Airflow]:
    """An Airflow that trains in pods and keeps artifacts in a bucket."""
    host = urlsplit(os.environ["GESSO_TEST_POD_S3"]).hostname
    served = Airflow(
        served_home,
        f"{bucket}/store",
        **REAL_S3,
        GESSO_TRAIN_ON="kubernetes",
        GESSO_CHECKPOINT_SECONDS="0",
        GESSO_POD_KUBECONFIG=os.environ["KUBECONFIG"],
        GESSO_POD_NAMESPACE=cluster.namespace,
        GESSO_POD_IMAGE=os.environ["GESSO_TEST_TRAINER"],
        GESSO_POD_SECRET="s3",
        GESSO_POD_S3_ENDPOINT=f"http://{host}:{way_to_s3.port}",
        GESSO_POD_CPU="100m",
        GESSO_POD_MEMORY="2Gi",
        GESSO_POD_POLL_SECONDS="1",
        GESSO_POD_LOG_SECONDS="3",
    )
    try:
        served.start(dataset)
        served.unpause()
        yield served
    finally:
        served.stop()


class Training:
    """A run, and what its training made beyond what was there before."""

    def __init__(self, airflow: Airflow, cluster: Any, epochs: int, runs: int = 1) -> None:
        self._airflow, self._cluster = airflow, cluster
        self._artifacts, self._pods = self._all_artifacts(), self._all_pods()
        self.runs = [airflow.trigger(epochs=epochs) for _ in range(runs)]

    @property
    def run(self) -> Run:
        return self.runs[0]

    def _all_artifacts(self) -> dict[str, Artifact]:
        return {artifact.key: artifact for artifact in committed(self._airflow.store, "train")}

    def _all_pods(self) -> set[str]:
        """Every pod that a node was found for, gone ones included."""
        events = self._cluster.list_namespaced_event(self._cluster.namespace, field_selector="reason=Scheduled")
        return {event.involved_object.name for event in events.items}

    def pods(self) -> set[str]:
        return self._all_pods() - self._pods

    def artifacts(self) -> list[Artifact]:
        return [artifact for key, artifact in self._all_artifacts().items() if key not in self._artifacts]

    def has_begun(self) -> None:
        """Wait until it has kept its first checkpoint."""
        wait_for(lambda: list(self._airflow.store.list("checkpoints/train/")), "the first checkpoint")

    def was_done_once(self) -> None:
        """Every run succeeded with the one artifact, which one pod made."""
        for run in self.runs:
            run.succeeds()
        (artifact,) = self.artifacts()
        assert {run.artifacts()["train"].key for run in self.runs} == {artifact.key}
        assert not strays(self._airflow.store, "train")
        assert len(self.pods()) == 1
        assert not pods(self._cluster)


def test_the_triggerer_dies_while_a_pod_trains(airflow: Airflow, cluster: Any) -> None:
    training = Training(airflow, cluster, LONG)
    training.has_begun()
    triggerer = airflow.part("triggerer")
    kill(triggerer)
    training.was_done_once()
    assert airflow.part("triggerer").pid != triggerer.pid
    assert training.run.task("train")["try_number"] == 1


def test_workers_die_starting_a_pod_and_fetching_the_rest_of_its_log(airflow: Airflow, cluster: Any) -> None:
    """The retry goes on with the same pod; where that has ended by then, its artifact counts and it is deleted."""
    training = Training(airflow, cluster, 2 * LONG)
    worker = wait_for(lambda: airflow.worker_of(training.run, "train"), "the worker", pause=0.05)
    wait_for(lambda: pods(cluster), "its pod", pause=0.01)
    kill(worker)  # alone: Airflow sees it at once
    wait_for(lambda: training.run.task("train")["try_number"] == 2, "the second try")
    worker = wait_for(lambda: airflow.worker_of(training.run, "train"), "its worker", pause=0.05)
    kill(worker.parent(), worker)  # with who watches over it: it is missed later
    wait_for(lambda: training.run.task("train")["try_number"] == 3, "the third try")
    wait_for(training.artifacts, "the artifact", pause=0.1)
    worker = airflow.worker_of(training.run, "train")
    while worker is None and training.run.task("train")["state"] not in ("success", "failed"):
        worker = airflow.worker_of(training.run, "train")
    if worker:  # to fetch the log, unless the third try began after the end
        with contextlib.suppress(psutil.NoSuchProcess):
            kill(worker)
    training.was_done_once()
    assert training.run.task("train")["try_number"] in (3, 4)


def test_a_pod_lost_before_anybody_saw_its_end_counts_by_its_artifact(airflow: Airflow, cluster: Any) -> None:
    training = Training(airflow, cluster, LONG + 1)
    training.has_begun()
    triggerer = airflow.part("triggerer")
    stopped = [triggerer, *triggerer.children(recursive=True)]
    try:
        for process in stopped:
            process.send_signal(signal.SIGSTOP)
        wait_for(training.artifacts, "the artifact")
        for name in training.pods():
            cluster.delete_namespaced_pod(name, cluster.namespace, grace_period_seconds=0)
        wait_for(lambda: not pods(cluster), "the pod's removal")
    finally:
        for process in stopped:
            process.send_signal(signal.SIGCONT)
    training.was_done_once()
    assert training.run.task("train")["try_number"] == 1


def test_two_runs_at_once_train_in_one_pod(airflow: Airflow, cluster: Any) -> None:
    """The second waits for the GPU's slot, and then finds the artifact."""
    training = Training(airflow, cluster, LONG + 2, runs=2)
    training.was_done_once()
    assert sorted(run.record()["train"][-1]["reused"] for run in training.runs) == [False, True]


def test_a_network_that_is_cut_for_a_minute(airflow: Airflow, cluster: Any, way_to_s3: Forwarder) -> None:
    """Packets from S3 to the pod are dropped while it trains."""
    rule = ["blackhole", "ipproto", "tcp", "sport", str(way_to_s3.port)]
    tried = subprocess.run(["ip", "rule", "add", *rule], capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"wants root and iproute2, to drop packets: {tried.stderr}")
    subprocess.run(["ip", "rule", "del", *rule], check=True)

    training = Training(airflow, cluster, LONG + 3)
    training.has_begun()
    subprocess.run(["ip", "rule", "add", *rule], check=True)
    try:
        cut = time.monotonic()
        time.sleep(5)  # what was on its way has arrived
        before = kept(airflow)
        time.sleep(60 - (time.monotonic() - cut))
        assert kept(airflow) == before, "the network was not cut"
        assert not training.artifacts()
    finally:
        subprocess.run(["ip", "rule", "del", *rule], check=True)
    training.run.succeeds()
    (artifact,) = training.artifacts()
    assert training.run.artifacts()["train"].key == artifact.key
    assert artifact.metrics["epochs"] == LONG + 3


def kept(airflow: Airflow) -> str:
    """When which checkpoint was kept."""
    return json.dumps([[each.key, str(each.modified)] for each in airflow.store.list("checkpoints/train/")])
