"""The training pod as it is sent to Kubernetes, and what is said of one that failed: no cluster needed."""

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
from kubernetes.client import ApiClient
from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

from include import pods
from include.pod_failures import explain
from include.pods import PodFailed, PodFailedForGood, PodSettings, StepPod, pod_settings
from tasks.core.errors import ParamsError
from tasks.core.params import Params, TrainParams
from tasks.core.settings import settings
from tasks.core.step import expected_key
from tests.tasks.artifacts_by_hand import committed, output

PRIVATE = "AKIAVERYPRIVATE"


@pytest.fixture(autouse=True)
def cluster(home: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Settings of a deployment that trains in pods; the worker's own keys must stay with it."""
    monkeypatch.setenv("GESSO_POD_SECRET", "gesso-s3")
    monkeypatch.setenv("GESSO_POD_NODE_SELECTOR", '{"pool": "gpu"}')
    monkeypatch.setenv("GESSO_POD_PRIORITY_CLASS", "gesso-training")
    monkeypatch.setenv("GESSO_POD_IMAGE_PULL_SECRETS", "registry, other")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", PRIVATE)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", PRIVATE)
    pod_settings.cache_clear()
    yield
    pod_settings.cache_clear()


@pytest.fixture
def given(s3: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> dict[str, str]:
    """The inputs of `train`, in a bucket that is the store."""
    from tasks.core.store import open_store

    monkeypatch.setenv("GESSO_STORE", s3)
    settings.cache_clear()
    folder = tmp_path / "by-hand"
    folder.mkdir()
    store = open_store(s3)
    return {name: committed(output(folder, store, name), name).uri for name in ("resample", "pack")}


class Task:
    """What the operator asks of the task instance."""

    try_number = 1

    def __init__(self) -> None:
        self.pushed: dict[str, Any] = {}

    def xcom_push(self, key: str, value: Any) -> None:
        self.pushed[key] = value


RUN = SimpleNamespace(dag_id="retrain", run_id="manual")


def prepared(given: dict[str, str], monkeypatch: pytest.MonkeyPatch, **params: Any) -> StepPod:
    """The operator as it is when it starts its pod."""
    monkeypatch.setattr(pods, "run_params", lambda: Params.of(params))
    monkeypatch.setattr("include.steps.run_params", lambda: Params.of(params))
    operator = StepPod(task_id="train", step="train", inputs=given, instance={"architecture": "vgg"})
    operator._prepare({"dag_run": RUN})
    return operator


def manifest(operator: StepPod) -> dict[str, Any]:
    found: dict[str, Any] = ApiClient().sanitize_for_serialization(operator.build_pod_request_obj(dry_run=True))
    return found


def test_the_pod_meets_the_restricted_profile(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted"""
    spec = manifest(prepared(given, monkeypatch))["spec"]
    (container,) = spec["containers"]
    assert not spec.get("initContainers")
    assert not any(spec.get(name) for name in ("hostNetwork", "hostPID", "hostIPC"))
    assert spec["securityContext"]["runAsNonRoot"] is True
    assert spec["securityContext"]["runAsUser"] > 0
    assert spec["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"]["allowPrivilegeEscalation"] is False
    assert container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
    assert "privileged" not in container["securityContext"]
    assert all(set(volume) <= {"name", "emptyDir"} for volume in spec["volumes"])
    assert not container.get("ports")


def test_beyond_the_profile_nothing_but_scratch_can_be_written_and_no_token_is_there(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = manifest(prepared(given, monkeypatch))["spec"]
    (container,) = spec["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert container["volumeMounts"] == [{"name": "scratch", "mountPath": "/tmp"}]
    assert spec["volumes"] == [{"name": "scratch", "emptyDir": {"sizeLimit": "20Gi"}}]
    assert spec["automountServiceAccountToken"] is False


def test_the_settings_are_the_pod(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    pod = manifest(prepared(given, monkeypatch))
    spec, (container,) = pod["spec"], pod["spec"]["containers"]
    assert pod["metadata"]["namespace"] == "gesso"
    assert pod["metadata"]["labels"]["app.kubernetes.io/component"] == "trainer"
    assert spec["nodeSelector"] == {"pool": "gpu"}
    assert spec["priorityClassName"] == "gesso-training"
    assert spec["imagePullSecrets"] == [{"name": "registry"}, {"name": "other"}]
    assert spec["serviceAccountName"] == "gesso-trainer"
    assert spec["restartPolicy"] == "Never"
    assert spec["activeDeadlineSeconds"] == 12 * 3600
    assert spec["terminationGracePeriodSeconds"] == 120
    assert spec["tolerations"] == [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}]
    assert container["image"] == "gesso/trainer:0.1.0"
    assert container["terminationMessagePolicy"] == "FallbackToLogsOnError"
    assert container["resources"] == {
        "requests": {"cpu": "4", "memory": "16Gi", "nvidia.com/gpu": "1"},
        "limits": {"memory": "16Gi", "nvidia.com/gpu": "1"},
    }


def test_what_a_worker_is_told_of_threads_and_s3_a_pod_is_told(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GESSO_WORKERS", "4")
    monkeypatch.setenv("AWS_REQUEST_CHECKSUM_CALCULATION", "when_required")
    (container,) = manifest(prepared(given, monkeypatch))["spec"]["containers"]
    told = {entry["name"]: entry.get("value") for entry in container["env"]}
    assert (told["GESSO_WORKERS"], told["AWS_REQUEST_CHECKSUM_CALCULATION"]) == ("4", "when_required")


def test_a_run_asks_for_gpus_by_its_params(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    spec = manifest(prepared(given, monkeypatch, gpus=2, gpu_type="NVIDIA-L4"))["spec"]
    assert spec["nodeSelector"] == {"pool": "gpu", "nvidia.com/gpu.product": "NVIDIA-L4"}
    assert spec["containers"][0]["resources"]["limits"]["nvidia.com/gpu"] == "2"

    spec = manifest(prepared(given, monkeypatch, gpus=0))["spec"]
    assert "nvidia.com/gpu" not in json.dumps(spec["containers"][0]["resources"])
    assert not spec.get("tolerations")


def test_gpus_are_in_no_key(given: dict[str, str]) -> None:
    keys = {expected_key("train", given, Params.of({"gpus": gpus}).section(TrainParams)) for gpus in (0, 4)}
    assert len(keys) == 1


def test_the_pod_runs_the_command_line_of_a_laptop(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    (container,) = manifest(prepared(given, monkeypatch, epochs=7))["spec"]["containers"]
    assert not container["command"]  # the image's entry point
    step, *inputs, params, store, key = container["args"]
    assert step == "train"
    assert inputs == [f"--input={name}={uri}" for name, uri in given.items()]
    section = TrainParams.of(json.loads(params.removeprefix("--params=")))
    assert (section.epochs, section.architecture) == (7, "vgg")
    assert store == f"--store={settings().store_uri}"
    assert key == f"--expect-key={expected_key('train', given, section)}"


def test_no_secret_is_in_the_pod(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    pod = manifest(prepared(given, monkeypatch))
    assert PRIVATE not in json.dumps(pod)
    environment = {each["name"]: each for each in pod["spec"]["containers"][0]["env"]}
    assert environment["AWS_SECRET_ACCESS_KEY"] == {
        "name": "AWS_SECRET_ACCESS_KEY",
        "valueFrom": {"secretKeyRef": {"name": "gesso-s3", "key": "AWS_SECRET_ACCESS_KEY"}},
    }
    monkeypatch.delenv("GESSO_POD_SECRET")
    pod_settings.cache_clear()
    names = {each["name"] for each in manifest(prepared(given, monkeypatch))["spec"]["containers"][0]["env"]}
    assert not names & {"AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"}


def test_a_committed_artifact_is_taken_without_a_pod(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Any
) -> None:
    from tasks.core.artifacts import Artifact
    from tasks.core.store import open_store

    operator = prepared(given, monkeypatch)
    store = open_store(settings().store_uri)
    made = {"step": "train", "key": operator._key, "inputs": {}, "metrics": {"images": 3}, "seconds": 1, "files": {}}
    made["made_at"] = "2026-01-04T00:00:00+00:00"
    store.create(f"artifacts/train/{operator._key}/artifact.json", json.dumps(made).encode())
    monkeypatch.setattr("include.steps._record", lambda *_: None)
    task = Task()
    uri = operator.execute({"ti": task})
    assert Artifact.open(uri).key == operator._key
    assert "used_at" in Artifact.open(uri).manifest, "held against who cleans up"
    assert task.pushed == {"summary": {"images": 3}, "return_value": uri}


def test_a_store_that_pods_cant_reach_is_refused(run_step: Any, store: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(PodFailedForGood, match=r"A pod can't reach the store /.*Set GESSO_STORE=s3://"):
        prepared({"resample": "anything"}, monkeypatch)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("HOURS", "0", "GESSO_POD_HOURS: Input should be greater than 0"),
        ("NODE_SELECTOR", "pool=gpu", "GESSO_POD_NODE_SELECTOR is not JSON"),
        ("NODE_SELECTOR", "[1]", "GESSO_POD_NODE_SELECTOR: Input should be a valid dictionary"),
    ],
)
def test_a_wrong_setting_is_named(name: str, value: str, said: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(f"GESSO_POD_{name}", value)
    with pytest.raises(ParamsError, match=said.replace("[", r"\[")):
        pod_settings()


def pod(phase: str = "Failed", reason: str | None = None, conditions: Any = None, **state: Any) -> k8s.V1Pod:
    """A pod as the API server shows it."""
    status = SimpleNamespace(state=k8s.V1ContainerState(**state))
    return k8s.V1Pod(
        status=k8s.V1PodStatus(
            phase=phase, reason=reason, conditions=conditions, container_statuses=[status] if state else None
        )
    )


def ended(code: int, reason: str = "Error", message: str | None = None) -> dict[str, Any]:
    return {"terminated": k8s.V1ContainerStateTerminated(exit_code=code, reason=reason, message=message)}


def refused(status: int, message: str) -> ApiException:
    error = ApiException(status=status, reason="Forbidden")
    error.body = json.dumps({"message": message})
    return error


WAITING = k8s.V1ContainerStateWaiting
UNSCHEDULED = k8s.V1PodCondition(
    type="PodScheduled", status="False", message="0/1 nodes are available: 1 Insufficient nvidia.com/gpu."
)
CASES: dict[str, tuple[k8s.V1Pod | None, Exception | None, str, bool]] = {
    "completed without an artifact": (pod("Succeeded", **ended(0)), None, "says Completed, but there is no", True),
    "bad data": (
        pod(**ended(1, message="epoch 1\ngesso: No training image of L2_3. Add images.\n")),
        Exception("Pod train returned a failure."),
        "No training image of L2_3. Add images.",
        False,
    ),
    "store away": (pod(**ended(75, message="gesso: The server is away.")), Exception(), "The server is away.", True),
    "out of memory": (pod(**ended(137, "OOMKilled")), Exception(), "more memory than GESSO_POD_MEMORY=16Gi", False),
    "killed": (pod(**ended(137)), Exception(), "ended with status 137 (Error). The next try goes on", True),
    "a fault of the code": (
        pod(**ended(1, message="Traceback\nKeyError: 'x'\n")),
        Exception(),
        "its last line: KeyError: 'x'",
        True,
    ),
    "evicted": (pod(reason="Evicted"), Exception(), "stopped by the cluster: Evicted", True),
    "too long": (pod(reason="DeadlineExceeded"), Exception(), "more than GESSO_POD_HOURS=12 hours", True),
    "gone": (None, ApiException(status=404), "The pod is gone", True),
    "deleted, and its container forgotten": (
        k8s.V1Pod(
            metadata=k8s.V1ObjectMeta(deletion_timestamp=datetime(2026, 1, 1, tzinfo=UTC)),
            status=pod(waiting=WAITING(reason="ContainerCreating")).status,
        ),
        Exception("Pod train returned a failure."),
        "The pod was deleted while it ran: its node was drained or reclaimed, or somebody did it. The next try goes on",
        True,
    ),
    "image missing": (
        pod("Pending", waiting=WAITING(reason="ErrImagePull", message="not found")),
        Exception(),
        "could not start: ErrImagePull: not found. Is GESSO_POD_IMAGE=gesso/trainer:0.1.0 right",
        True,
    ),
    "secret missing": (
        pod("Pending", waiting=WAITING(reason="CreateContainerConfigError", message='secret "gesso-s3" not found')),
        Exception(),
        'secret "gesso-s3" not found. Is there a secret GESSO_POD_SECRET=gesso-s3 in gesso',
        True,
    ),
    "no node": (
        pod("Pending", conditions=[UNSCHEDULED]),
        Exception(),
        "No node took the pod within GESSO_POD_SCHEDULE_MINUTES=30: 0/1 nodes are available",
        True,
    ),
    "quota": (
        None,
        refused(403, "pods train is forbidden: exceeded quota: gpus, requested: 1, used: 1, limited: 1"),
        "The namespace gesso has no room for the pod: pods train is forbidden: exceeded quota: gpus",
        True,
    ),
    "no namespace": (
        None,
        refused(404, 'namespaces "nowhere" not found'),
        'refuses the pod: namespaces "nowhere" not found. Apply include/kubernetes',
        False,
    ),
    "no permission": (None, refused(403, "pods is forbidden"), "pods is forbidden. Apply include/kubernetes", False),
    "server away": (None, ApiException(status=503, reason="Unavailable"), "refuses the pod (503): Unavailable", True),
    "anything else": (pod("Unknown"), ValueError("odd\nTraceback"), "The pod failed: odd", True),
}


@pytest.mark.parametrize("case", CASES)
def test_a_failure_is_explained_in_one_message(case: str) -> None:
    found, failure, said, again = CASES[case]
    message, may_help = explain(found, failure, PodSettings.model_validate({"secret": "gesso-s3"}))
    assert said in message
    assert "\n" not in message
    assert may_help is again


def test_an_artifact_counts_whatever_became_of_its_pod(given: dict[str, str], monkeypatch: pytest.MonkeyPatch) -> None:
    from tasks.core.store import open_store

    operator = prepared(given, monkeypatch)
    monkeypatch.setattr("include.steps._record", lambda *_: None)

    def lost_after_the_commit() -> None:
        made = {"step": "train", "key": operator._key, "inputs": {}, "metrics": {}, "seconds": 1, "files": {}}
        open_store(settings().store_uri).create(
            f"artifacts/train/{operator._key}/artifact.json", json.dumps(made).encode()
        )
        raise ApiException(status=404, reason="Not Found")

    assert operator._watch({"ti": Task(), "dag_run": RUN}, lost_after_the_commit).endswith(operator._key)

    other = prepared(given, monkeypatch, epochs=3)
    with pytest.raises(PodFailed, match="says Completed, but there is no artifact"):
        other._watch({"ti": Task(), "dag_run": RUN}, lambda: None)


def test_a_trial_of_a_search_that_fails_for_good_is_left_out(
    given: dict[str, str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def watched(case: str) -> str | None:
        operator = prepared(given, monkeypatch)
        operator.instance = {"architecture": "vgg", "learning_rate": 10.0}
        operator._ended, failure, *_ = CASES[case]

        def fail() -> None:
            raise failure or Exception()

        return operator._watch({"ti": Task(), "dag_run": RUN}, fail)

    assert watched("bad data") is None
    assert "vgg, learning_rate 10.0 is left out of the search: " in capsys.readouterr().out
    with pytest.raises(PodFailed, match="The server is away"):
        watched("store away")
