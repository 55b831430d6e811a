"""include/kubernetes: what can be said without a cluster, and what a cluster says."""

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

from include.pods import PodSettings, pod_defaults
from tests.conftest import ROOT
from tests.deploy.conftest import MANIFESTS as FOLDER
from tests.deploy.conftest import kubectl


def manifests(kind: str) -> dict[str, Any]:
    """The manifests of a kind, by name."""
    found = [one for file in FOLDER.glob("*.yaml") for one in yaml.safe_load_all(file.read_text())]
    return {one["metadata"]["name"]: one for one in found if one["kind"] == kind}


def test_every_manifest_is_applied() -> None:
    named = yaml.safe_load((FOLDER / "kustomization.yaml").read_text())["resources"]
    assert sorted(named) == sorted(file.name for file in FOLDER.glob("*.yaml") if file.name != "kustomization.yaml")


def test_files_that_deployments_name_are_there() -> None:
    for file in (ROOT / "docker-compose.yaml", *(ROOT / "include").rglob("*.yaml")):
        named = re.findall(r"\b(?:dags|docs|include|tasks)/[\w./-]*\w\.\w+", file.read_text())
        assert [path for path in named if not (ROOT / path).exists()] == [], file


def test_airflow_may_do_what_a_pod_operator_does_and_no_more() -> None:
    rules = {rule["resources"][0]: rule["verbs"] for rule in manifests("Role")["gesso-launcher"]["rules"]}
    assert rules == {
        "pods": ["create", "get", "list", "patch", "delete"],
        "pods/log": ["get"],
        "events": ["list", "watch"],
    }


def test_the_defaults_of_training_pods_fit_the_manifests() -> None:
    pods = PodSettings()
    assert pods.namespace in manifests("Namespace")
    assert pods.service_account in manifests("ServiceAccount")
    trainer = manifests("NetworkPolicy")["trainer"]["spec"]
    assert trainer["podSelector"]["matchLabels"].items() <= pod_defaults(pods)["labels"].items()
    assert "ingress" not in trainer
    ports = [(port["port"], port["protocol"]) for rule in trainer["egress"] for port in rule["ports"]]
    assert ports == [(53, "UDP"), (53, "TCP"), (443, "TCP")]


def test_training_is_below_everything_else() -> None:
    training = manifests("PriorityClass")["gesso-training"]
    assert training["value"] < 0
    assert training["preemptionPolicy"] == "Never"


@pytest.mark.kubernetes
def test_applying_again_changes_nothing(applied: Path) -> None:
    again = kubectl("apply", "-k", str(applied))
    assert again.count(" unchanged") == len(again.splitlines()) == 10, again


@pytest.mark.kubernetes
@pytest.mark.parametrize(
    ("account", "verb", "what", "allowed"),
    [
        *(("gesso-airflow", verb, "pods", True) for verb in ("create", "get", "list", "patch", "delete")),
        ("gesso-airflow", "get", "pods/log", True),
        ("gesso-airflow", "list", "events", True),
        ("gesso-airflow", "watch", "events", True),
        ("gesso-airflow", "create", "pods/exec", False),
        ("gesso-airflow", "get", "secrets", False),
        ("gesso-airflow", "create", "deployments.apps", False),
        ("gesso-airflow", "create", "rolebindings.rbac.authorization.k8s.io", False),
        ("gesso-trainer", "get", "pods", False),
        ("gesso-trainer", "get", "secrets", False),
    ],
)
def test_rights(applied: Path, account: str, verb: str, what: str, allowed: bool) -> None:
    resource, _, subresource = what.partition("/")
    asked = ["kubectl", "auth", "can-i", verb, resource, f"--subresource={subresource}"]
    asked.append(f"--as=system:serviceaccount:{applied.name}:{account}")
    for namespace, answer in ((applied.name, allowed), ("default", False)):
        done = subprocess.run([*asked, f"--namespace={namespace}"], text=True, capture_output=True)
        assert done.stdout.split()[0] == ("yes" if answer else "no"), done.stderr


def admitted(namespace: str, **settings: Any) -> Any:
    """The training pod as the API server would keep it, asked for with Airflow's rights."""
    from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
    from kubernetes import client, config

    from include.pods import resources

    config.load_kube_config(os.environ["KUBECONFIG"])
    api = client.CoreV1Api(
        client.ApiClient(
            header_name="Impersonate-User", header_value=f"system:serviceaccount:{namespace}:gesso-airflow"
        )
    )
    pods = PodSettings(
        namespace=namespace, priority_class=f"{namespace}-training", kubeconfig=os.environ["KUBECONFIG"], **settings
    )
    made = KubernetesPodOperator(
        task_id="train", **(pod_defaults(pods) | {"container_resources": resources(pods, gpus=1)})
    ).build_pod_request_obj(None)
    return api.create_namespaced_pod(namespace, made, dry_run="All")


@pytest.mark.kubernetes
def test_a_training_pod_is_admitted_and_a_greedy_one_is_not(applied: Path) -> None:
    from kubernetes.client.exceptions import ApiException

    pod = admitted(applied.name)
    assert pod.spec.priority == -100
    limits = pod.spec.containers[0].resources
    assert limits.requests["ephemeral-storage"] == "1Gi"
    assert "cpu" not in limits.limits
    with pytest.raises(ApiException, match="maximum memory usage per Container is 64Gi"):
        admitted(applied.name, memory="65Gi")
    with pytest.raises(ApiException, match="exceeded quota"):
        admitted(applied.name, cpu="33")
