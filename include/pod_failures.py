"""Why a pod failed, in one message for the task's log, and whether another try may help."""

import json
from typing import TYPE_CHECKING

from kubernetes.client import models as k8s
from kubernetes.client.exceptions import ApiException

from tasks.core.errors import GO_ON, TRY_AGAIN, WORDS

if TYPE_CHECKING:
    from include.pods import PodSettings


def explain(pod: k8s.V1Pod | None, failure: Exception | None, pods: "PodSettings") -> tuple[str, bool]:
    """Why a pod left no artifact, and whether another try may help.

    Args:
        pod: the pod as it was last seen, or None.
        failure: what the operator raised, or None where the pod ended well.
        pods: the settings that it was made from.
    """
    if failure is None:
        return "The pod says Completed, but there is no artifact. Its log above may tell why.", True
    if isinstance(failure, ApiException) and (failure.status != 404 or "namespaces" in str(failure.body)):
        return _refused(failure, pods)
    if pod is None or pod.status is None:
        return f"The pod is gone: its node was lost or reclaimed, or somebody deleted it. {GO_ON}", True
    container = next(iter(pod.status.container_statuses or ()), None)
    state = container.state if container else None
    if pod.status.reason == "DeadlineExceeded":
        return f"The pod ran for more than GESSO_POD_HOURS={pods.hours:g} hours and was stopped. {GO_ON}", True
    if state and state.terminated:
        return _ended(state.terminated, pod.status.reason, pods)
    if state and state.waiting and state.waiting.reason not in ("ContainerCreating", "PodInitializing"):
        return _could_not_start(state.waiting, pods)
    for condition in pod.status.conditions or ():
        if condition.type == "PodScheduled" and condition.status == "False":
            return (
                f"No node took the pod within GESSO_POD_SCHEDULE_MINUTES={pods.schedule_minutes:g}: "
                f"{condition.message} Check gpus, gpu_type and GESSO_POD_NODE_SELECTOR against the cluster's nodes.",
                True,
            )
    if pod.status.reason:
        return f"The pod was stopped by the cluster: {pod.status.reason}. {GO_ON}", True
    if pod.metadata and pod.metadata.deletion_timestamp:  # of its container Kubernetes may know nothing any more
        return f"The pod was deleted while it ran: its node was drained or reclaimed, or somebody did it. {GO_ON}", True
    return f"The pod failed: {first_line(failure)}", True


def _ended(ended: k8s.V1ContainerStateTerminated, reason: str | None, pods: "PodSettings") -> tuple[str, bool]:
    """What to say of a container that ran and ended."""
    if ended.reason == "OOMKilled":
        return (
            f"The pod needed more memory than GESSO_POD_MEMORY={pods.memory} and was killed. Raise it, or lower "
            f"batch_size or image_size.",
            False,
        )
    words = [line for line in (ended.message or "").splitlines() if line.startswith(WORDS)]
    if words:
        return words[-1].removeprefix(WORDS), ended.exit_code == TRY_AGAIN
    last = next((line for line in reversed((ended.message or "").splitlines()) if line.strip()), "")
    said = f", its last line: {last.strip()}" if last else ""
    return (
        f"The pod's container ended with status {ended.exit_code} ({reason or ended.reason}){said}. {GO_ON}",
        True,
    )


def _could_not_start(waiting: k8s.V1ContainerStateWaiting, pods: "PodSettings") -> tuple[str, bool]:
    """What to say of a container that never ran."""
    text = f"The pod could not start: {waiting.reason}: {waiting.message or 'no message'}."
    if waiting.reason in ("ErrImagePull", "ImagePullBackOff", "ErrImageNeverPull", "InvalidImageName"):
        text += f" Is GESSO_POD_IMAGE={pods.image} right, and does GESSO_POD_IMAGE_PULL_SECRETS open its registry?"
    if waiting.reason == "CreateContainerConfigError":
        text += f" Is there a secret GESSO_POD_SECRET={pods.secret} in {pods.namespace}, with both its keys?"
    return text, waiting.reason != "InvalidImageName"


def _refused(error: ApiException, pods: "PodSettings") -> tuple[str, bool]:
    """What to say of a request that the API server refused."""
    try:
        said = str(json.loads(error.body)["message"])
    except (TypeError, ValueError, KeyError):
        said = str(error.reason)
    if "exceeded quota" in said:
        return f"The namespace {pods.namespace} has no room for the pod: {said}", True
    if error.status in (401, 403, 404):
        return f"Kubernetes refuses the pod: {said}. Apply include/kubernetes, or correct GESSO_POD_….", False
    return f"Kubernetes refuses the pod ({error.status}): {said}", error.status in (None, 0, 409, 429) or (
        error.status >= 500
    )


def first_line(error: Exception) -> str:
    """The first line of what an error says, or its type's name."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
