"""Training in pods of a real cluster, with artifacts on a real S3 server.

Wants KUBECONFIG, AWS_ENDPOINT_URL with keys, GESSO_TEST_POD_S3 (the address of that server as pods see it) and
GESSO_TEST_TRAINER (an image of the trainer that the cluster has).
"""

import json
import os
import re
import subprocess
import sys
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from kubernetes import client, config
from kubernetes.client.exceptions import ApiException

from tasks.core.artifacts import Artifact
from tasks.core.store import Store, open_store
from tests.conftest import REAL_S3, ROOT

pytestmark = [pytest.mark.kubernetes, pytest.mark.s3, pytest.mark.trainer, pytest.mark.timeout(600)]

#: Small enough for seconds, with an early stop that doesn't come.
PARAMS = {
    "image_size": 32, "min_per_class": 10, "max_per_class": 40, "gpus": 0, "stop_patience": 1000, "min_macro_f1": 0,
}  # fmt: skip
#: Long enough to be killed in the middle.
LONG = 300


@pytest.fixture(scope="module")
def cluster() -> Iterator[client.CoreV1Api]:
    """A namespace of these tests' own, with the secret and the service account that pods use."""
    config.load_kube_config(os.environ["KUBECONFIG"])
    api, name = client.CoreV1Api(), f"gesso-{uuid.uuid4().hex[:8]}"
    api.create_namespace({"metadata": {"name": name}})
    api.create_namespaced_service_account(name, {"metadata": {"name": "gesso-trainer"}})
    for secret, key in (("s3", REAL_S3["AWS_SECRET_ACCESS_KEY"]), ("wrong", "not-the-key")):
        keys = {"AWS_ACCESS_KEY_ID": REAL_S3["AWS_ACCESS_KEY_ID"], "AWS_SECRET_ACCESS_KEY": key}
        api.create_namespaced_secret(name, {"metadata": {"name": secret}, "stringData": keys})
    api.namespace = name
    yield api
    api.delete_namespace(name)


@pytest.fixture(scope="module")
def bucket() -> str:
    import boto3

    name = f"gesso-{uuid.uuid4().hex[:12]}"
    keys = {
        "endpoint_url": REAL_S3["AWS_ENDPOINT_URL"],
        "aws_access_key_id": REAL_S3["AWS_ACCESS_KEY_ID"],
        "aws_secret_access_key": REAL_S3["AWS_SECRET_ACCESS_KEY"],
    }
    boto3.Session().client("s3", **keys).create_bucket(Bucket=name)
    return f"s3://{name}"


class Run:
    """`make run`, training in a pod."""

    def __init__(
        self, api: Any, dataset: Path, store: str, home: Path, params: dict[str, Any], **settings: str
    ) -> None:
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")},
            **REAL_S3,
            "GESSO_HOME": str(home),
            "GESSO_STORE": store,
            "GESSO_TRAIN_ON": "kubernetes",
            "GESSO_CHECKPOINT_SECONDS": "0",
            "GESSO_POD_KUBECONFIG": os.environ["KUBECONFIG"],
            "GESSO_POD_NAMESPACE": api.namespace,
            "GESSO_POD_IMAGE": os.environ["GESSO_TEST_TRAINER"],
            "GESSO_POD_SECRET": "s3",
            "GESSO_POD_S3_ENDPOINT": os.environ["GESSO_TEST_POD_S3"],
            "GESSO_POD_CPU": "100m",
            "GESSO_POD_MEMORY": "2Gi",
            "GESSO_POD_POLL_SECONDS": "1",
            "GESSO_POD_LOG_SECONDS": "600",
            **{f"GESSO_POD_{name.upper()}": value for name, value in settings.items()},
        }
        command = [sys.executable, "-m", "include.run", "--preset=demo", f"--dataset={dataset}"]
        self.log = home / "airflow-run" / "run.log"
        self.process = subprocess.Popen(
            [*command, f"--params={json.dumps(PARAMS | params)}"],
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def end(self) -> tuple[int, str]:
        """Its exit status and all it printed."""
        printed, _ = self.process.communicate()
        return self.process.returncode, printed


Start = Callable[..., Run]


@pytest.fixture
def start(cluster: Any, dataset: Path, bucket: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Start:
    """Starts a run: start({"epochs": 3}, memory="4Gi"). All share a store, so that only training is done anew."""
    for name, value in REAL_S3.items():
        monkeypatch.setenv(name, value)

    def start_run(params: dict[str, Any], store: str = "store", **settings: str) -> Run:
        return Run(cluster, dataset, f"{bucket}/{store}", tmp_path / "home", params, **settings)

    return start_run


@pytest.fixture
def store(bucket: str, start: Start) -> Store:
    return open_store(f"{bucket}/store")


def pods(api: Any) -> list[Any]:
    """The pods that nobody deleted.

    One that was deleted is Kubernetes' affair: it removes a pod that couldn't start after a minute, seldom at once.
    """
    found: list[Any] = api.list_namespaced_pod(api.namespace).items
    return [pod for pod in found if pod.metadata.deletion_timestamp is None]


def trained(printed: str) -> bool:
    return bool(re.search(r"^train baseline .* done$", printed, re.MULTILINE))


def artifact_of(store: Store, epochs: int) -> Artifact:
    found = (
        Artifact.find(store, "train", each.key.split("/")[2])
        for each in store.list("artifacts/train/")
        if each.key.endswith("/artifact.json")
    )
    (artifact,) = (each for each in found if each and each.params["epochs"] == epochs)
    return artifact


def test_the_workflow_trains_in_a_pod_once(start: Start, cluster: Any, store: Store) -> None:
    status, printed = start({"epochs": 3}).end()
    assert status == 0, printed
    assert trained(printed)
    assert "Verdict: PROMOTE" in printed
    assert artifact_of(store, 3).metrics["epochs"] == 3
    assert not pods(cluster)

    again = start({"epochs": 3})
    status, printed = again.end()
    assert status == 0, printed
    assert re.search(r"^train baseline .* reused$", printed, re.MULTILINE)
    assert "Building pod" not in again.log.read_text()

    status, printed = start({"epochs": 3, "folds": 2}).end()
    assert status == 0, printed
    assert re.search(r"^train baseline +[\d,]+ images .* reused$", printed, re.MULTILINE)
    assert len(re.findall(r"^train baseline, fold [12] of 2 .* done$", printed, re.MULTILINE)) == 2
    assert not pods(cluster)


@pytest.mark.parametrize("grace", [30, 0], ids=["SIGTERM", "SIGKILL"])
def test_a_pod_killed_while_it_trains_is_resumed_and_ends_the_same(
    grace: int, start: Start, cluster: Any, store: Store, bucket: str
) -> None:
    epochs = LONG + grace
    run = start({"epochs": epochs})
    while not (kept := list(store.list("checkpoints/train/"))):
        assert run.process.poll() is None, run.end()[1]
        time.sleep(0.2)
    (pod,) = pods(cluster)
    cluster.delete_namespaced_pod(pod.metadata.name, cluster.namespace, grace_period_seconds=grace)
    status, printed = run.end()
    assert status == 1, printed
    assert re.search(r"^gesso: (train: )?.*(The next try goes on|It was told to stop)", printed, re.MULTILINE), printed
    assert not pods(cluster)

    resumed = start({"epochs": epochs})
    status, printed = resumed.end()
    assert status == 0, printed
    went_on = re.search(r"Going on after epoch (\d+)", resumed.log.read_text())
    assert went_on
    assert 0 < int(went_on[1]) < epochs
    assert list(store.list("checkpoints/train/")) == []
    assert kept

    whole = start({"epochs": epochs}, store=f"whole-{grace}")
    status, printed = whole.end()
    assert status == 0, printed
    one, other = artifact_of(store, epochs), artifact_of(open_store(f"{bucket}/whole-{grace}"), epochs)
    assert one.key == other.key
    assert one.path("model.keras").read_bytes() == other.path("model.keras").read_bytes()


FAILURES: dict[str, tuple[dict[str, str], str]] = {
    "image missing": (
        {"image": "gesso/nowhere:1"},
        r"The pod could not start: (ErrImagePull|ImagePullBackOff): .*Is GESSO_POD_IMAGE=gesso/nowhere:1 right",
    ),
    "secret missing": (
        {"secret": "nowhere", "startup_minutes": "0.2"},
        r'The pod could not start: CreateContainerConfigError: secret "nowhere" not found',
    ),
    "wrong keys in the secret": ({"secret": "wrong"}, r"access denied \(.*\)\. Check AWS_ACCESS_KEY_ID"),
    "out of memory": ({"memory": "150Mi"}, r"The pod needed more memory than GESSO_POD_MEMORY=150Mi and was killed"),
    "no such node": (
        {"node_selector": '{"pool": "gpu"}', "schedule_minutes": "0.1"},
        r"No node took the pod within GESSO_POD_SCHEDULE_MINUTES=0.1: 0/1 nodes are available",
    ),
    "too long": ({"hours": "0.001"}, r"The pod ran for more than GESSO_POD_HOURS=0.001 hours"),
    "no such namespace": (
        {"namespace": "nowhere"},
        r'Kubernetes refuses the pod: namespaces "nowhere" not found\. Apply include/kubernetes',
    ),
}


@pytest.mark.parametrize("case", FAILURES)
def test_a_failure_is_one_message_and_leaves_no_pod(case: str, start: Start, cluster: Any) -> None:
    settings, said = FAILURES[case]
    # other epochs, other key: a pod that was too slow to fail may finish in its grace period
    status, printed = start({"epochs": 50 + [*FAILURES].index(case)}, **settings).end()
    assert status == 1, printed
    (reason,) = (line for line in printed.splitlines() if line.startswith("gesso: "))
    assert re.search(said, reason)
    assert printed.splitlines()[-1] == reason
    assert "Traceback" not in printed
    assert not pods(cluster)


def test_an_exceeded_quota_is_one_message_and_leaves_no_pod(start: Start, cluster: Any) -> None:
    quota = {"metadata": {"name": "full"}, "spec": {"hard": {"pods": "0"}}}
    cluster.create_namespaced_resource_quota(cluster.namespace, quota)
    try:
        deadline = time.monotonic() + 30
        while not cluster.read_namespaced_resource_quota("full", cluster.namespace).status.hard:
            assert time.monotonic() < deadline
            time.sleep(0.2)
        status, printed = start({"epochs": 70}).end()
    finally:
        cluster.delete_namespaced_resource_quota("full", cluster.namespace)
    assert status == 1, printed
    assert re.search(r"gesso: .*has no room for the pod: .*exceeded quota: full", printed.splitlines()[-1])
    assert not pods(cluster)


def test_the_task_log_names_no_key_and_shows_no_pod_spec(start: Start) -> None:
    run = start({"epochs": 71}, secret="wrong")
    run.end()
    log = run.log.read_text()
    assert REAL_S3["AWS_SECRET_ACCESS_KEY"] not in log
    assert "not-the-key" not in log
    assert "remote_pod:" not in log


def test_without_permission_the_manifests_are_named(start: Start, cluster: Any, tmp_path: Path) -> None:
    """A service account without rights, as Airflow's would be before `include/kubernetes` was applied."""
    import yaml

    cluster.create_namespaced_service_account(cluster.namespace, {"metadata": {"name": "powerless"}})
    token = None
    deadline = time.monotonic() + 30
    while not token and time.monotonic() < deadline:
        for secret in cluster.list_namespaced_secret(cluster.namespace).items:
            if (secret.metadata.annotations or {}).get("kubernetes.io/service-account.name") == "powerless":
                import base64

                token = base64.b64decode(secret.data["token"]).decode()
        time.sleep(0.2)
    assert token
    kubeconfig = yaml.safe_load(Path(os.environ["KUBECONFIG"]).read_text())
    for user in kubeconfig["users"]:
        user["user"] = {"token": token}
    file = tmp_path / "powerless"
    file.write_text(yaml.safe_dump(kubeconfig))
    status, printed = start({"epochs": 72}, kubeconfig=str(file)).end()
    assert status == 1
    assert "Apply include/kubernetes" in printed.splitlines()[-1]
    with pytest.raises(ApiException):
        cluster.read_namespaced_pod("train", cluster.namespace)
