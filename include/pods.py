"""Steps in pods: training on a GPU node of a Kubernetes cluster.

    inputs = {"resample": resample, "pack": pack}
    train = StepPod.partial(task_id="train", step="train", inputs=inputs).expand(instance=trainings())

A pod gets the command line that a laptop's process gets. What counts is the committed artifact, whose key is known
before the pod starts: it is looked for before a pod is started, by the pod as its first act, and when the pod ended, in
whatever way. So a finished training is never thrown away, and a pod that ended well without an artifact has failed.

Where pods run and what they look like is set by GESSO_POD_… (`PodSettings`); GPUs are a run's params.
"""

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from functools import cache
from typing import Any

from airflow.providers.cncf.kubernetes.operators.pod import KubernetesPodOperator
from airflow.sdk.exceptions import AirflowException, AirflowFailException
from kubernetes.client import models as k8s
from pydantic import BaseModel, ConfigDict, Field

from include.pod_failures import explain, first_line
from include.steps import command_line, finish, input_uris, leave_out, run_params, section_of, tell_failure
from tasks.core.artifacts import Artifact
from tasks.core.errors import TRY_AGAIN, GessoError
from tasks.core.runs import instance_name, is_drawn
from tasks.core.settings import from_environment, settings
from tasks.core.step import expected_key, find_whole
from tasks.core.store import open_store
from tasks.core.use import hold

GPU = "nvidia.com/gpu"

#: The pod's only writable folder.
SCRATCH = "/tmp"  # noqa: S108 - an emptyDir of the pod's own


class PodSettings(BaseModel):
    """Where training pods run and what they look like: `GESSO_POD_<NAME>`."""

    model_config = ConfigDict(frozen=True)

    kubeconfig: str = Field("", description="Path of a kubeconfig. Empty: the cluster that Airflow itself runs in.")
    namespace: str = Field("gesso", description="Namespace of the pods.")
    image: str = Field("gesso/trainer:0.1.0", description="Image whose entry point is Gesso's command line.")
    image_pull_secrets: str = Field("", description="Secrets for the image's registry, with commas between them.")
    service_account: str = Field("gesso-trainer", description="Service account; a cloud's identity hangs on it.")
    secret: str = Field(
        "",
        description="Secret with AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY. Empty: the service account's identity.",
    )
    s3_endpoint: str = Field("", description="Address of S3 as pods see it. Empty: AWS_ENDPOINT_URL, if that is set.")
    priority_class: str = Field("", description="Priority class, if the cluster has one for training.")
    node_selector: dict[str, str] = Field({}, description='Labels of the nodes, as JSON: {"pool": "gpu"}.')
    gpu_label: str = Field("nvidia.com/gpu.product", description="Node label that the param gpu_type is looked for in.")
    cpu: str = Field("4", description="CPUs a pod asks for: augmentation runs on them.")
    memory: str = Field("16Gi", description="Memory a pod may use.")
    scratch: str = Field("20Gi", description="Disk a pod may use, for the pack and the model.")
    schedule_minutes: float = Field(30, gt=0, description="How long a pod may wait for a node, a new one included.")
    startup_minutes: float = Field(20, gt=0, description="How long a pod may take to start on its node.")
    hours: float = Field(12, gt=0, description="How long a pod may run; the next one goes on from its checkpoint.")
    poll_seconds: float = Field(10, gt=0, description="How often the triggerer looks at a pod.")
    log_seconds: int = Field(120, gt=0, description="How often the task's log gets a pod's new lines.")


@cache
def pod_settings() -> PodSettings:
    """The settings of this process, read once.

    Raises:
        ParamsError: a GESSO_POD_… variable has a value that can't be used.
    """
    return from_environment(PodSettings, "GESSO_POD_")


def pod_defaults(pods: PodSettings) -> dict[str, Any]:
    """What each pod gets, whatever it runs. Nothing secret is in it: keys come from a Secret or the pod's identity."""
    return {
        "namespace": pods.namespace,
        "image": pods.image,
        "image_pull_policy": "IfNotPresent",  # tags are never moved, and a GPU image has gigabytes
        "image_pull_secrets": [
            k8s.V1LocalObjectReference(name.strip()) for name in pods.image_pull_secrets.split(",") if name.strip()
        ],
        "service_account_name": pods.service_account,
        "automount_service_account_token": False,  # the work never talks to Kubernetes
        "labels": {"app.kubernetes.io/name": "gesso", "app.kubernetes.io/component": "trainer"},  # for network policies
        "priority_class_name": pods.priority_class or None,
        "config_file": pods.kubeconfig or None,
        "in_cluster": not pods.kubeconfig,
        "kubernetes_conn_id": None,  # beside a kubeconfig it is refused
        # A worker's slot is not held while a pod trains, and a worker's death doesn't touch it.
        "deferrable": True,
        "durable": True,  # where a worker does die (starting the pod, copying its log), the retry finds the same pod
        "poll_interval": pods.poll_seconds,
        "logging_interval": pods.log_seconds,  # else nothing is seen of the epochs before the end
        "get_logs": True,
        "do_xcom_push": False,  # no sidecar that could hang: the artifact is the result
        "on_finish_action": "delete_pod",  # what was to be kept is in the store and in the task's log
        "on_kill_action": "delete_pod",  # whoever fails the task in the UI wants the GPU back
        "log_events_on_failure": True,  # only they tell of evictions and missing nodes
        "log_pod_spec_on_failure": False,  # 400 lines that hide the reason
        "termination_message_policy": "FallbackToLogsOnError",  # puts the last lines into the pod's status
        "termination_grace_period": 120,  # enough to send a checkpoint of some 100 MB on its way
        "schedule_timeout_seconds": round(60 * pods.schedule_minutes),  # a node pool that scales up from zero
        "startup_timeout_seconds": round(60 * pods.startup_minutes),  # the first pull of a GPU image
        "active_deadline_seconds": round(3600 * pods.hours),  # a hung pod must not keep a GPU for ever
        "execution_timeout": timedelta(hours=pods.hours, minutes=pods.schedule_minutes + pods.startup_minutes + 10),
        "security_context": k8s.V1PodSecurityContext(
            run_as_non_root=True,
            run_as_user=1000,
            run_as_group=1000,
            fs_group=1000,  # so that the volume below is writable
            seccomp_profile=k8s.V1SeccompProfile(type="RuntimeDefault"),
        ),
        "container_security_context": k8s.V1SecurityContext(
            allow_privilege_escalation=False,
            read_only_root_filesystem=True,
            capabilities=k8s.V1Capabilities(drop=["ALL"]),
        ),
        "volumes": [k8s.V1Volume(name="scratch", empty_dir=k8s.V1EmptyDirVolumeSource(size_limit=pods.scratch))],
        "volume_mounts": [k8s.V1VolumeMount(name="scratch", mount_path=SCRATCH)],
        "env_vars": _environment(pods),
    }


#: What a pod is told as the worker is.
AS_HERE = (
    "AWS_DEFAULT_REGION",
    "AWS_REQUEST_CHECKSUM_CALCULATION",
    "AWS_RESPONSE_CHECKSUM_VALIDATION",
    "GESSO_WORKERS",
)


def _environment(pods: PodSettings) -> list[k8s.V1EnvVar]:
    values = {
        "HOME": SCRATCH,  # libraries keep caches there
        "GESSO_HOME": f"{SCRATCH}/gesso",
        "GESSO_CHECKPOINT_SECONDS": f"{settings().checkpoint_seconds:g}",
        "AWS_ENDPOINT_URL": pods.s3_endpoint or os.environ.get("AWS_ENDPOINT_URL"),
    } | {name: os.environ.get(name) for name in AS_HERE}
    plain = [k8s.V1EnvVar(name=name, value=value) for name, value in values.items() if value]
    keys = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY") if pods.secret else ()
    return plain + [
        k8s.V1EnvVar(
            name=name,
            value_from=k8s.V1EnvVarSource(secret_key_ref=k8s.V1SecretKeySelector(name=pods.secret, key=name)),
        )
        for name in keys
    ]


def resources(pods: PodSettings, gpus: int) -> k8s.V1ResourceRequirements:
    """Requests and limits. CPU has no limit: spare ones speed augmentation up, and harm nobody."""
    gpu = {GPU: str(gpus)} if gpus else {}
    return k8s.V1ResourceRequirements(
        requests={"cpu": pods.cpu, "memory": pods.memory} | gpu, limits={"memory": pods.memory} | gpu
    )


class PodFailed(AirflowException):
    """A pod left no artifact; another try may help."""


class PodFailedForGood(AirflowFailException):
    """A pod left no artifact, for a reason that another try can't mend."""


class StepPod(KubernetesPodOperator):
    """A step in a pod. Returns the URI of the step's artifact, as a step in a worker does.

    Args:
        step: the step.
        inputs: the URI, or URIs, of each input artifact.
        instance: the params that differ between the mapped tasks of a run.
        options: the operator's, where they differ from `pod_defaults`.
    """

    template_fields: Sequence[str] = (*KubernetesPodOperator.template_fields, "inputs", "instance")

    def __init__(
        self, *, step: str, inputs: Mapping[str, Any], instance: Mapping[str, Any] | None = None, **options: Any
    ) -> None:
        defaults = pod_defaults(pod_settings())
        if options.get("execution_timeout") == (options.get("default_args") or {}).get("execution_timeout"):
            options.pop("execution_timeout", None)  # the DAG's, which knows nothing of waiting for a node
        super().__init__(**(defaults | options))
        self.step, self.inputs, self.instance = step, inputs, instance
        self._ended: k8s.V1Pod | None = None
        self._uri = ""

    def execute(self, context: Any) -> str | None:
        """Start the pod, unless its artifact is there. Returns and raises as `_watch`."""
        self._prepare(context)
        if (artifact := self._committed()) and hold(artifact):
            if context["ti"].try_number > 1:
                self._delete_left_pod(context)
            return self._finish(context, artifact, reused=True)
        return self._watch(context, lambda: super(StepPod, self).execute(context))

    def trigger_reentry(self, context: Any, event: dict[str, Any]) -> str | None:
        """Go on where the triggerer saw the pod end, or its log is due. Returns and raises as `_watch`."""
        self._prepare(context)
        return self._watch(context, lambda: super(StepPod, self).trigger_reentry(context, event))

    def cleanup(self, pod: Any, remote_pod: Any, *args: Any, **named: Any) -> None:
        self._ended = remote_pod  # it is deleted next, and its status says why it failed
        super().cleanup(pod, remote_pod, *args, **named)

    def _delete_left_pod(self, context: Any) -> None:
        """Delete the pod of an earlier try, whose worker died before it could."""
        try:
            self.process_pod_deletion(self.find_pod(self.namespace or pod_settings().namespace, context))
        except Exception as error:  # the artifact is there all the same
            self.log.warning("The pod of an earlier try may be left: %s", first_line(error))

    def _prepare(self, context: Any) -> None:
        try:
            self._ask_for(context)
        except GessoError as error:
            tell_failure(context, self.step, str(error), self.instance)
            raise (PodFailed if error.exit_status == TRY_AGAIN else PodFailedForGood)(str(error)) from None

    def _ask_for(self, context: Any) -> None:
        """Make the pod's command line, and what it asks of its node, from the run's params."""
        instance = self.instance or {}
        context["instance_name"] = instance_name(instance)
        uris = input_uris(self.inputs)
        params, pods, store = run_params(), pod_settings(), settings().store_uri
        if not store.startswith("s3://"):
            raise GessoError(
                f"A pod can't reach the store {store}. Set GESSO_STORE=s3://bucket/prefix, or GESSO_TRAIN_ON=local."
            )
        section = section_of(self.step, context, instance)
        self._key = expected_key(self.step, uris, section)
        self.arguments = [*command_line(self.step, uris, section, store), f"--expect-key={self._key}"]
        self.container_resources = resources(pods, params.gpus)
        self.node_selector = pods.node_selector | ({pods.gpu_label: params.gpu_type} if params.gpu_type else {})
        if params.gpus:  # GPU nodes are tainted, so that nothing else lands on them
            self.tolerations = [k8s.V1Toleration(key=GPU, operator="Exists", effect="NoSchedule")]

    def _committed(self) -> Artifact | None:
        return find_whole(open_store(settings().store_uri), self.step, self._key)

    def _watch(self, context: Any, watch: Callable[[], object]) -> str | None:
        """Let the operator do its work; then let the artifact decide. None: a trial that is left out of a search.

        Raises:
            PodFailed, PodFailedForGood: there is no artifact; says why.
        """
        failure: Exception | None = None
        try:
            watch()
        except (PodFailed, PodFailedForGood):  # starting a pod that had ended already goes on to `trigger_reentry`
            raise
        except Exception as error:  # whatever the operator, Kubernetes or its client raised: the artifact decides
            failure = error
        if self._uri:
            return self._uri
        if artifact := self._committed():
            if failure:
                self.log.warning("The pod's end was not seen (%s), but its artifact is there.", first_line(failure))
            return self._finish(context, artifact, reused=False)
        message, again = explain(self._ended, failure, pod_settings())
        if not again and is_drawn(self.instance or {}):
            leave_out(self.instance or {}, message)
            return None
        tell_failure(context, self.step, message, self.instance)
        raise (PodFailed if again else PodFailedForGood)(message) from None

    def _finish(self, context: Any, artifact: Artifact, *, reused: bool) -> str:
        # The work's own seconds: how long it waited for a node is the scheduler's affair.
        self._uri = finish(context, self.step, self.instance or {}, artifact, reused, 0 if reused else artifact.seconds)
        context["ti"].xcom_push("return_value", self._uri)  # the operator's own push would want the sidecar
        return self._uri
