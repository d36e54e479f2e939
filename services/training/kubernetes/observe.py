"""What a Job, its pods and its events say about an attempt: pure, so that each way to be blocked is a one-line test.

An attempt has failed when its Job has; a pod that failed within a Job that goes on only blocks it. Why a Job failed is
read from its pods: from the pod that broke, not from those that broke with it.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from google.protobuf import json_format
from google.rpc import status_pb2

from omnialign.errors import (
    DeadlineExceeded,
    FailedPrecondition,
    OmnialignError,
    ResourceExhausted,
    Unavailable,
    from_status,
)
from services.training.conditions import NONE, Condition
from services.training.failure_policy import died
from services.training.kubernetes.manifests import CONTAINER, KUEUE_LABEL, READY_ANNOTATION
from services.training.launcher import Observation, Phase
from training.launch import EXIT_FAILED, EXIT_STALLED, EXIT_STOPPED

Object = dict[str, Any]

IMAGE_REASONS = frozenset(
    {
        "ErrImagePull", "ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "ImageInspectError",
        "RegistryUnavailable", "SignatureValidationFailed",
    }
)  # fmt: skip
CONTAINER_REASONS = frozenset(
    {
        "CreateContainerConfigError", "CreateContainerError", "RunContainerError", "ContainerCannotRun",
        "PreCreateHookError", "PostStartHookError", "StartError",
    }
)  # fmt: skip
EVENT_REASONS = {
    "FailedMount": "VOLUME_FAILED",
    "FailedAttachVolume": "VOLUME_FAILED",
    "FailedCreatePodSandBox": "POD_NETWORK_FAILED",
}
ENDED_PHASES = ("Succeeded", "Failed")


@dataclass(frozen=True)
class ClusterState:
    """What the API server knows of an attempt; `events` are those of the Job and of its pods, oldest first."""

    job: Object
    pods: Sequence[Object] = ()
    events: Sequence[Object] = ()


def observe(state: ClusterState, *, now: datetime, start_seconds: float = 0.0) -> Observation:
    """The phase of the attempt, and what blocks it. It may be blocked for `start_seconds`; 0 means for ever."""
    conditions = _conditions(state.job)
    if _true(conditions.get("Complete")):
        return Observation(Phase.SUCCEEDED)
    if failed := _true(conditions.get("Failed")):
        error, crashed = failure_of(state, failed)
        return Observation(Phase.FAILED, error=error, crashed=crashed)
    block = _block(state)
    if block is None:
        if _all_run(state):
            return Observation(Phase.RUNNING)
        pull = next(_pulls(state), NONE)
        return Observation(Phase.WAITING, pull.reason, pull.message)
    if start_seconds and not _suspended(state.job) and _waited_seconds(state.job, now) > start_seconds:
        return Observation(Phase.FAILED, error=_never_started(block, start_seconds))
    return Observation(Phase.WAITING, block.reason, block.message)


def failure_of(state: ClusterState, condition: Object) -> tuple[OmnialignError, bool]:
    """Why a Job failed, and whether that counts as a crash."""
    if condition.get("reason") == "DeadlineExceeded":
        block = next(iter(_pod_blocks(state)), None)
        cause = f"; it was blocked: {block.message}" if block else ""
        message = str(condition.get("message") or "the job took longer than its deadline")
        metadata = {"held_up_by": block.reason} if block else {}
        return DeadlineExceeded(f"{message}{cause}", reason="DEADLINE_EXCEEDED", metadata=metadata), True
    found = [verdict for pod in state.pods if (verdict := _verdict(pod)) is not None]
    if not found:
        return died(str(condition.get("message") or condition.get("reason") or "its pods are gone")), True
    _, _, error, crashed = min(found, key=lambda verdict: verdict[:2])
    return error, crashed


def most_informative_pod(pods: Sequence[Object]) -> Object | None:
    """The pod whose log says most: the one that explains the failure, or else the newest of the first node."""
    broken = [(verdict[:2], pod) for pod in pods if (verdict := _verdict(pod)) is not None]
    if broken:
        return min(broken, key=lambda item: item[0])[1]
    newest_first = sorted(pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp") or ""), reverse=True)
    return min(newest_first, key=_index, default=None)


def termination_tail(pod: Object) -> list[str]:
    """The last lines of the log, as the program left them in its termination message."""
    message = str(_terminated(pod).get("message") or "")
    try:
        return [str(line) for line in json.loads(message)["log_tail"]]
    except (ValueError, KeyError, TypeError):
        return message.splitlines()[-40:]


def exit_code(pod: Object) -> int | None:
    """The exit code of a pod's program, once it has ended."""
    code = _terminated(pod).get("exitCode")
    return None if code is None else int(code)


def _verdict(pod: Object) -> tuple[int, str, OmnialignError, bool] | None:
    """A pod's rank as an explanation, when it ended, its error, and whether that is a crash; None if it did not fail.

    When one pod breaks, its peers soon fail in their collectives, each with an error of its own. The pods are therefore
    ranked, and the lowest rank wins, then the earliest end:

    - 0: killed for lack of memory: only the kernel knows, and the peers' errors never say so;
    - 1: a typed error, with the exit code of one;
    - 2: evicted: the other failures follow from it, and it is no crash;
    - 3: stalled, or a typed error with another exit code, which may be a consequence;
    - 4: an exit code and nothing else;
    - 5: told to stop, which never causes a failure.
    """
    if pod.get("status", {}).get("phase") != "Failed" and exit_code(pod) in (None, 0):
        return None
    ended, name = _terminated(pod), pod["metadata"]["name"]
    finished_at = str(ended.get("finishedAt") or "")
    if ended.get("reason") == "OOMKilled":
        return 0, finished_at, _out_of_memory(pod), True
    left = _left_behind(ended)
    code = exit_code(pod)
    if left is not None and left.reason == "OOM_KILLED":
        return 0, finished_at, left, True
    if left is not None and code == EXIT_FAILED:
        return 1, finished_at, left, True
    evicted = _evicted(pod)
    if evicted is not None:
        return 2, finished_at, Unavailable(evicted.message, reason=evicted.reason, metadata={"pod": name}), False
    if code == EXIT_STALLED or (left is not None and code != EXIT_STOPPED):
        return 3, finished_at, left or died(f"exit code {code} of pod {name}"), True
    if code == EXIT_STOPPED:
        return 5, finished_at, Unavailable(f"pod {name} was told to stop", reason="EVICTED"), False
    words = f"exit code {code} of pod {name}" if code is not None else f"pod {name}: {_pod_message(pod)}"
    return 4, finished_at, died(words, last_line=_last_line(ended)), True


def _block(state: ClusterState) -> Condition | None:
    """The first thing that blocks the attempt: the queue, then the creation of pods, then the pods themselves."""
    if _suspended(state.job):
        return _queued(state)
    return next(iter([*_creation_blocks(state), *_pod_blocks(state)]), None)


def _queued(state: ClusterState) -> Condition | None:
    metadata = state.job["metadata"]
    queue = metadata.get("labels", {}).get(KUEUE_LABEL)
    if queue:
        return Condition("QUEUED_BY_KUEUE", f"waits in queue {queue} until Kueue starts it")
    if READY_ANNOTATION in (metadata.get("annotations") or {}):
        return Condition("SUSPENDED", f"somebody suspended the Kubernetes Job {metadata['name']}")
    return None  # this service is about to start it


def _creation_blocks(state: ClusterState) -> Iterator[Condition]:
    """Why the Job's controller could not create its pods, if it could not."""
    living = [pod for pod in state.pods if pod.get("status", {}).get("phase") not in ENDED_PHASES]
    done = int(state.job.get("status", {}).get("succeeded") or 0)
    if len(living) + done >= int(state.job["spec"].get("parallelism") or 1):
        return
    # Refusals older than the newest pod are settled: that pod was created after them.
    newest = max((str(pod["metadata"].get("creationTimestamp") or "") for pod in state.pods), default="")
    refused = [e for e in state.events if e.get("reason") == "FailedCreate" and event_time(e) >= newest]
    if refused:
        message = str(refused[-1].get("message"))
        if "exceeded quota" in message:
            yield Condition("QUOTA_EXCEEDED", message)
        elif "forbidden" in message:
            yield Condition("FORBIDDEN", message)
        else:
            yield Condition("POD_CREATION_FAILED", message)


def _pod_blocks(state: ClusterState) -> Iterator[Condition]:
    """What blocks the pods: first those that should run now, then those that ended and will be replaced."""
    newest: dict[str, Object] = {}
    for pod in sorted(state.pods, key=lambda pod: str(pod["metadata"].get("creationTimestamp") or "")):
        newest[_index(pod)] = pod
    for pod in sorted(newest.values(), key=lambda pod: pod.get("status", {}).get("phase") in ENDED_PHASES):
        block = _pod_block(pod, state.events)
        if block is not None:
            yield block


def _pod_block(pod: Object, events: Sequence[Object]) -> Condition | None:
    status = pod.get("status", {})
    if status.get("phase") == "Succeeded":
        return None
    if _terminated(pod).get("reason") == "OOMKilled":
        return Condition("OOM_KILLED", _out_of_memory(pod).message)
    if (evicted := _evicted(pod)) is not None:
        return evicted
    if status.get("phase") == "Unknown" or status.get("reason") == "NodeLost":
        return Condition("NODE_LOST", f"the node of pod {pod['metadata']['name']} does not answer")
    if status.get("phase") != "Pending":
        return None
    scheduled = _conditions(pod).get("PodScheduled", {})
    if scheduled.get("status") == "False":
        message = str(scheduled.get("message") or "no node takes the pod")
        return Condition("UNSCHEDULABLE" if scheduled.get("reason") == "Unschedulable" else "NOT_SCHEDULED", message)
    return _waiting_block(pod) or _event_block(pod, events)


def _waiting_block(pod: Object) -> Condition | None:
    status = pod.get("status", {})
    for container in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        waiting = (container.get("state") or {}).get("waiting") or {}
        reason, message = str(waiting.get("reason") or ""), str(waiting.get("message") or "")
        if reason in IMAGE_REASONS:
            return Condition("IMAGE_PULL_FAILED", f"{reason}: {message or container.get('image')}")
        if reason in CONTAINER_REASONS:
            return Condition("CONTAINER_FAILED", f"{reason}: {message}")
    return None


def _event_block(pod: Object, events: Sequence[Object]) -> Condition | None:
    """A volume or a network that does not get ready, which only events say."""
    name = pod["metadata"]["name"]
    for event in reversed(events):
        if (event.get("involvedObject") or {}).get("name") == name and event.get("reason") in EVENT_REASONS:
            return Condition(EVENT_REASONS[event["reason"]], str(event.get("message")))
    return None


def _pulls(state: ClusterState) -> Iterator[Condition]:
    """Images that nodes are pulling, which may take minutes and fails nothing."""
    for pod in state.pods:
        name = pod["metadata"]["name"]
        events = [e for e in state.events if (e.get("involvedObject") or {}).get("name") == name]
        last = next((e for e in reversed(events) if e.get("reason") in ("Pulling", "Pulled")), None)
        if pod.get("status", {}).get("phase") == "Pending" and last and last["reason"] == "Pulling":
            node = pod.get("spec", {}).get("nodeName", "its node")
            yield Condition("PULLING_IMAGE", f"{node} pulls the image of pod {name}")


def _evicted(pod: Object) -> Condition | None:
    """Why a pod was taken from its node through no fault of its own; None if it was not."""
    status, name = pod.get("status", {}), pod["metadata"]["name"]
    target = _conditions(pod).get("DisruptionTarget", {})
    if target.get("status") == "True":
        words = target.get("message") or target.get("reason") or "disrupted"
        return Condition("EVICTED", f"pod {name} was taken from its node ({target.get('reason')}): {words}")
    if status.get("reason") in ("Evicted", "Preempting", "Preempted", "Shutdown", "NodeShutdown", "Terminated"):
        return Condition("EVICTED", f"pod {name} was taken from its node: {status.get('message') or status['reason']}")
    return None


def _left_behind(ended: Object) -> OmnialignError | None:
    """The typed error in a termination message, as `training.launch` writes it."""
    try:
        return from_status(json_format.ParseDict(json.loads(ended.get("message") or "")["status"], status_pb2.Status()))
    except (ValueError, KeyError, TypeError, json_format.ParseError):
        return None


def _out_of_memory(pod: Object) -> ResourceExhausted:
    limit = next(
        (
            str((c.get("resources", {}).get("limits") or {}).get("memory") or "")
            for c in pod.get("spec", {}).get("containers", [])
        ),
        "",
    )
    return ResourceExhausted(
        f"pod {pod['metadata']['name']} needed more memory than its limit{f' of {limit}' if limit else ''}",
        reason="OOM_KILLED",
        metadata={"pod": pod["metadata"]["name"], "limit": limit},
    )


def _never_started(block: Condition, start_seconds: float) -> FailedPrecondition:
    return FailedPrecondition(
        f"the job could not start within {start_seconds:g} s: {block.message}",
        reason=block.reason,
        metadata={"start_seconds": f"{start_seconds:g}"},
    )


def _all_run(state: ClusterState) -> bool:
    """Whether every pod of the Job runs or has succeeded."""
    active = {_index(pod) for pod in state.pods if pod.get("status", {}).get("phase") in ("Running", "Succeeded")}
    return len(active) >= int(state.job["spec"].get("parallelism") or 1)


def _suspended(job: Object) -> bool:
    return bool(job["spec"].get("suspend"))


def _waited_seconds(job: Object, now: datetime) -> float:
    began = job.get("status", {}).get("startTime")
    return (now - datetime.fromisoformat(str(began))).total_seconds() if began else 0.0


def _conditions(item: Object) -> dict[str, Object]:
    return {condition["type"]: condition for condition in item.get("status", {}).get("conditions") or ()}


def _true(condition: Object | None) -> Object | None:
    return condition if condition is not None and condition.get("status") == "True" else None


def _terminated(pod: Object) -> Object:
    for container in pod.get("status", {}).get("containerStatuses") or ():
        if container.get("name") == CONTAINER:
            return dict((container.get("state") or {}).get("terminated") or {})
    return {}


def _index(pod: Object) -> str:
    metadata = pod["metadata"]
    found = (metadata.get("annotations") or {}).get("batch.kubernetes.io/job-completion-index")
    return str(found if found is not None else metadata["name"])


def _pod_message(pod: Object) -> str:
    status = pod.get("status", {})
    return str(status.get("message") or status.get("reason") or "failed and left no message")


def _last_line(ended: Object) -> str:
    return next((line for line in reversed(str(ended.get("message") or "").splitlines()) if line.strip()), "")


def event_time(event: Object) -> str:
    """When an event last happened, as text that sorts by time."""
    return str(
        event.get("lastTimestamp")
        or (event.get("series") or {}).get("lastObservedTime")
        or event.get("eventTime")
        or event.get("firstTimestamp")
        or event["metadata"].get("creationTimestamp")
        or ""
    )
