"""What the state of a Job and its pod means for the task. Pure: objects in, words out.

The API says the same thing in many places; each function below reads the one that says it
first (a pod's container, before the Job that only counts it).
"""

from __future__ import annotations

from typing import Any, Final, NamedTuple

Object = dict[str, Any]

_NEVER: Final = {
    "ErrImageNeverPull": "image_pull",
    "InvalidImageName": "image_pull",
    "CreateContainerConfigError": "unschedulable",
}
"""Why a container waits, where waiting is in vain."""
_HARDLY: Final = ("CreateContainerError", "RunContainerError")
"""Why a container waits, where the node tries again."""
_PULLS: Final = ("ErrImagePull", "ImagePullBackOff", "ImageInspectError", "RegistryUnavailable")
_NODE_LOST: Final = ("DeletionByTaintManager", "DeletionByPodGC", "NodeLost", "NodeShutdown", "Terminated")
_EVICTED: Final = (
    "EvictionByEvictionAPI",
    "PreemptionByScheduler",
    "TerminationByKubelet",
    "Evicted",
    "Preempting",
)


class Held(NamedTuple):
    """Why a Job does not run yet: a `waiting.code`, or, when it is `final`, an `error.code`.

    `patient`: somebody decides when it may run (a queue), so there is no use in counting the seconds.
    """

    code: str
    message: str
    final: bool = False
    patient: bool = False


class Lost(NamedTuple):
    """Why an attempt ended without an outcome of its own."""

    code: str
    message: str
    retryable: bool
    details: dict[str, Any]


def held(job: Object | None, pod: Object | None) -> Held | None:
    """Why a Job does not run yet, as far as it and its pod say; `None`: there is nothing to say."""
    if pod is None:
        if job is not None and job.get("spec", {}).get("suspend"):
            return Held("quota", "The Job is suspended: its queue has not let it in yet.", patient=True)
        return None
    for state in _container_states(pod):
        waiting = state.get("waiting") or {}
        reason, said = waiting.get("reason", ""), waiting.get("message", "")
        if reason in _NEVER:
            return Held(_NEVER[reason], _words(reason, said), final=True)
        if reason in _PULLS:
            return Held("image_pull", _words(reason, said))
        if reason in _HARDLY:
            return Held("unschedulable", _words(reason, said))
    condition = _condition(pod, "PodScheduled")
    if condition.get("status") == "False":
        return Held(
            "unschedulable", _words(condition.get("reason", "Unschedulable"), condition.get("message", ""))
        )
    return None


def waits_for(pod: Object | None) -> str:
    """The reason why a pod's container waits, in the cluster's word (`ContainerCreating`, …); or empty."""
    waiting = [state.get("waiting") or {} for state in _container_states(pod or {})]
    return next((str(each["reason"]) for each in waiting if each.get("reason")), "")


def refusal(status: int, message: str) -> Held | None:
    """Why the API server refused an object, when that is for good or a matter of quota."""
    if "exceeded quota" in message:
        return Held("quota", message)
    if status == 403:
        return Held("not_allowed", message, final=True)
    if status in (400, 404, 405, 413, 422):
        return Held("unschedulable", message, final=True)
    return None


def failed_create(event: Object) -> tuple[str, Held] | None:
    """The name of a Job whose pod was refused, and why: only an event tells."""
    about = event.get("involvedObject") or {}
    if event.get("reason") != "FailedCreate" or about.get("kind") != "Job":
        return None
    message = event.get("message") or "its pod was refused"
    if "exceeded quota" in message:
        return about.get("name", ""), Held("quota", message)
    return about.get("name", ""), Held("not_allowed", message, final="forbidden" in message)


def started(pod: Object | None) -> bool:
    """Whether the task's container has run, at least for a moment."""
    return any("running" in state or "terminated" in state for state in _container_states(pod or {}))


def over(pod: Object) -> bool:
    """Whether nothing of a pod runs any more."""
    states = _container_states(pod)
    ended = bool(states) and all("terminated" in state for state in states)
    return ended or pod.get("status", {}).get("phase") in ("Succeeded", "Failed")


def node_lost(pod: Object | None) -> bool:
    """Whether a pod is given up because its node is gone: it may stand there as running for ever."""
    disrupted = _condition(pod or {}, "DisruptionTarget")
    return disrupted.get("status") == "True" and disrupted.get("reason") in _NODE_LOST


def unmade(deployment: Object) -> str:
    """Why a Deployment cannot make its pods, in the cluster's words; empty while it can."""
    condition = _condition(deployment, "ReplicaFailure")
    return str(condition.get("message") or "") if condition.get("status") == "True" else ""


def failed(job: Object | None) -> str:
    """Why a Job has failed or is about to; empty while it has not."""
    for kind in ("Failed", "FailureTarget"):
        condition = _condition(job or {}, kind)
        if condition.get("status") == "True":
            return str(condition.get("reason") or kind)
    return ""


def lost(job: Object | None, pod: Object | None, *, deleted: bool = False) -> Lost:
    """Why an attempt is over though it told no outcome.

    Args:
        job: as it was seen last.
        pod: as it was seen last; `None`: there never was one.
        deleted: whether the pod, or the Job, went away.
    """
    details = _details(job, pod)
    if failed(job) == "DeadlineExceeded":
        return Lost("timeout", "Its Job was active longer than its deadline.", False, details)
    status = (pod or {}).get("status") or {}
    disrupted = _condition(pod or {}, "DisruptionTarget")
    why = disrupted.get("reason") if disrupted.get("status") == "True" else None
    why, said = why or status.get("reason"), disrupted.get("message") or status.get("message") or ""
    if _terminated(pod, "OOMKilled"):
        return Lost("out_of_memory", "Its container used more memory than its limit.", True, details)
    if why in _NODE_LOST:
        return Lost("worker_lost", f"Its node was lost: {_words(str(why), said)}", True, details)
    if why in _EVICTED or "evict" in str(why).lower():
        return Lost("evicted", f"Its pod was evicted: {_words(str(why), said)}", True, details)
    if deleted or (pod or {}).get("metadata", {}).get("deletionTimestamp"):
        what = "pod" if pod is not None else "Job"
        return Lost("worker_lost", f"Its {what} was deleted by somebody.", True, details)
    if "exit_code" in details:
        message = f"Its container exited with status {details['exit_code']} and told no result."
        return Lost("worker_lost", message, True, details)
    return Lost("worker_lost", "Its Job failed and told no result.", True, details)


def _details(job: Object | None, pod: Object | None) -> dict[str, Any]:
    found: dict[str, Any] = {}
    if job is not None:
        found["job"] = job["metadata"]["name"]
    if pod is not None:
        found["pod"] = pod["metadata"]["name"]
        if node := pod.get("spec", {}).get("nodeName"):
            found["node"] = node
    for state in _container_states(pod or {}):
        if terminated := state.get("terminated"):
            found["exit_code"], found["reason"] = terminated.get("exitCode"), terminated.get("reason")
            if said := terminated.get("message"):
                found["termination_message"] = said
    return found


def _terminated(pod: Object | None, reason: str) -> bool:
    states = _container_states(pod or {})
    return any((state.get("terminated") or {}).get("reason") == reason for state in states)


def _container_states(pod: Object) -> list[Object]:
    status = pod.get("status") or {}
    return [each.get("state") or {} for each in status.get("containerStatuses") or ()]


def _condition(thing: Object, kind: str) -> Object:
    conditions = (thing.get("status") or {}).get("conditions") or ()
    return next((each for each in conditions if each.get("type") == kind), {})


def _words(reason: str, said: str) -> str:
    return f"{reason}: {said}" if said else f"{reason}."
