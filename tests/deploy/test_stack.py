"""docker-compose.yaml on a real engine: from nothing to a model, by the REST API."""

import contextlib
import json
import os
import urllib.error
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import yaml

from tasks.demo import make_demo
from tests.deploy.conftest import kubectl
from tests.deploy.stack import Stack, compose

pytestmark = [pytest.mark.docker, pytest.mark.faults, pytest.mark.timeout(2400)]

#: A training of seconds.
CONF = {"preset": "demo", "epochs": 2, "min_macro_f1": 0}


@pytest.fixture(scope="module")
def demo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data") / "demo"
    make_demo(folder, images=300)
    return folder


@contextlib.contextmanager
def up(stack: Stack, demo: Path) -> Iterator[Stack]:
    """The stack, up, with the demo data set in its bucket; nothing is left of it afterwards."""
    stack.compose("build", "--quiet", "prepare")
    try:
        stack.compose("up", "--detach", "--wait", "--no-build")
        for file in demo.rglob("*"):
            if file.is_file():
                stack.s3().upload_file(str(file), "gesso", f"data/{file.relative_to(demo)}")
        yield stack
    finally:
        compose(stack.folder, "--profile", "*", "down", "--volumes", project=stack.project, **stack.settings)


#: What training in pods wants of the environment.
CLUSTER = {"KUBECONFIG", "GESSO_TEST_TRAINER", "GESSO_TEST_STACK_POD_S3"}
local_alone = pytest.mark.skipif(set(os.environ) >= CLUSTER, reason="the stack that trains in pods has the same parts")


@pytest.fixture(params=[pytest.param("local", marks=local_alone), "celery"])
def stack(request: pytest.FixtureRequest, tmp_path: Path, demo: Path) -> Iterator[Stack]:
    # A slot for each worker, so that the two steps which run at the same time need both.
    slots = "1" if request.param == "celery" else "4"
    with up(Stack(tmp_path, COMPOSE_PROFILES=request.param, GESSO_PARALLELISM=slots), demo) as stack:
        yield stack


def test_a_run_by_rest_ends_with_a_model(stack: Stack) -> None:
    run = stack.run(CONF)

    tasks = [task for task in run["tasks"] if task["task_id"] != "nothing_new"]  # the branch not taken
    states = {(task["task_id"], task["state"], task["try_number"]) for task in tasks}
    assert run["state"] == "success", states
    ends = {(state, tries) for name, state, tries in states if name != "nothing_new"}
    assert ends == {("success", 1)}, "a cold start costs no try"
    record = json.load(stack.s3().get_object(Bucket="gesso", Key=f"store/runs/retrain/{run['id']}.json")["Body"])
    assert record["steps"]["promote"][0]["artifact"].startswith("s3://gesso/store/artifacts/promote/")
    train = next(task for task in tasks if task["task_id"] == "train")
    assert "gesso > train baseline" in stack.log(run, train)
    workers = stack.settings["COMPOSE_PROFILES"] == "celery"
    hosts = {task["hostname"] for task in tasks}
    assert len(hosts) == (2 if workers else 1), hosts

    assert stack.s3().get_bucket_versioning(Bucket="gesso")["Status"] == "Enabled"
    with pytest.raises(urllib.error.HTTPError, match="401"):
        stack.login("another")
    with pytest.raises(urllib.error.HTTPError, match="401"):
        stack.call("/api/v2/dags")


def kubeconfig(namespace: str, file: Path) -> None:
    """Write the kubeconfig of Airflow's service account: with its rights, and no others."""
    from kubernetes import client, config

    config.load_kube_config(os.environ["KUBECONFIG"])
    asked = client.AuthenticationV1TokenRequest(spec=client.V1TokenRequestSpec(audiences=[], expiration_seconds=3600))
    answer = client.CoreV1Api().create_namespaced_service_account_token("gesso-airflow", namespace, asked)
    made = yaml.safe_load(kubectl("config", "view", "--raw", "--minify", "--flatten", "--output=json"))
    made["users"] = [{"name": "gesso-airflow", "user": {"token": answer.status.token}}]
    made["contexts"][0]["context"]["user"] = "gesso-airflow"
    file.write_text(yaml.safe_dump(made))
    file.chmod(0o644)  # the user of the containers must be able to read it


@pytest.mark.kubernetes
@pytest.mark.skipif(
    not set(os.environ) >= CLUSTER,
    reason="wants GESSO_TEST_TRAINER, the trainer's image in the cluster, and GESSO_TEST_STACK_POD_S3, the address at "
    "which pods reach the stack's S3; it is published on that port of 127.0.0.1",
)
def test_training_in_the_pods_of_a_cluster(applied: Path, tmp_path: Path, demo: Path) -> None:
    namespace, address = applied.name, os.environ["GESSO_TEST_STACK_POD_S3"]
    kubeconfig(namespace, tmp_path / "kubeconfig")
    stack = Stack(
        tmp_path,
        s3_port=urlsplit(address).port,
        GESSO_KUBECONFIG=str(tmp_path / "kubeconfig"),
        GESSO_POD_NAMESPACE=namespace,
        GESSO_POD_IMAGE=os.environ["GESSO_TEST_TRAINER"],
        GESSO_POD_SECRET="s3",
        GESSO_POD_S3_ENDPOINT=address,
        GESSO_POD_PRIORITY_CLASS=f"{namespace}-training",
        GESSO_POD_CPU="100m",
        GESSO_POD_MEMORY="2Gi",
        GESSO_POD_POLL_SECONDS="1",
    )
    keys = {"AWS_ACCESS_KEY_ID": "GESSO_S3_ACCESS_KEY", "AWS_SECRET_ACCESS_KEY": "GESSO_S3_SECRET_KEY"}
    literals = [f"--from-literal={name}={stack.secrets[secret]}" for name, secret in keys.items()]
    kubectl("create", "secret", "generic", "s3", "--namespace", namespace, *literals)
    with up(stack, demo):
        run = stack.run(CONF | {"gpus": 0})
        states = {(task["task_id"], task["state"]) for task in run["tasks"]}
        train = next(task for task in run["tasks"] if task["task_id"] == "train")
        log = stack.log(run, train)

    assert run["state"] == "success", (states, log[-3000:])
    assert train["operator"] == "StepPod"
    assert "gesso > train baseline" in log
