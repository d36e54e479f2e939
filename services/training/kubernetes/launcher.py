"""The launcher of a cluster: each attempt is an Indexed Job with a Secret and a headless Service that it owns.

The order of creation makes every crash safe:

1. the Job, suspended: it has a fixed name, by which the next service finds it;
2. the Secret and the Service, owned by the Job: deleting the Job deletes them;
3. the patch that marks the Job as ready and lets its pods start.

A service that is blocked before 3 goes on where it was. One that dies takes the token with it: the next one finds a Job
without pods, deletes it, and starts over.

Two services must not share a database: run one replica, with `strategy: Recreate`.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime

from omnialign.errors import (
    AlreadyExists,
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    OmnialignError,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from omnialign.v1.training_service_pb2 import TrainingJob
from services.training.config import TrainingConfig
from services.training.kubernetes import manifests
from services.training.kubernetes.api import Cluster, Object, connect
from services.training.kubernetes.mirror import Mirror
from services.training.kubernetes.observe import (
    ENDED_PHASES,
    ClusterState,
    event_time,
    most_informative_pod,
    observe,
    termination_tail,
)
from services.training.kubernetes.settings import read_settings
from services.training.launcher import (
    LINE_CHARACTERS,
    Blocked,
    Handle,
    LogPart,
    Observation,
    Phase,
    Started,
    token_digest,
)
from services.training.model_registry import ModelRegistry

FIRST_ANSWER_SECONDS = 5.0
"""How long the cluster may take to answer after the start before it counts as away."""
EVENTS_SECONDS = 3.0
"""How long events that were read are reused."""
EVENT_PODS = 3
"""Pods of a job whose events are read; the others are blocked by the same thing."""
STOP_POLL_SECONDS, STOP_SHOWN_SECONDS = 0.25, 10.0
FINISH_SECONDS = 60.0
"""How long pods may take to exit after their model was delivered."""
QUEUE_SECONDS = 7 * 86_400.0
"""How long a Job may wait in Kueue's queue before its token is too old."""
LOG_LINES, LOG_BYTES, WHOLE_LOG_BYTES = 40, 64 * 1024, 16 * 1024 * 1024


class KubernetesLauncher:
    """Creates, observes and deletes Jobs in one namespace."""

    max_nodes = 256

    def __init__(self, config: TrainingConfig, *, registry: ModelRegistry, notify: Callable[[], None]) -> None:
        if config.kubernetes_file is None:
            raise InvalidArgument("kubernetes_file is required", reason="KUBERNETES_FILE_INVALID")
        self._config, self._registry, self._notify = config, registry, notify
        self._settings = read_settings(config.kubernetes_file)
        deadlines = self._settings.deadlines
        queued = QUEUE_SECONDS if self._settings.queue else 0.0
        self.longest_seconds = float(deadlines.run_seconds + deadlines.deliver_seconds) + queued
        self._cluster: Cluster | None = None
        self._mirrors: dict[str, Mirror] = {}
        self._tokens: dict[str, str] = {}
        self._events: dict[str, tuple[float, list[Object]]] = {}

    async def open(self) -> None:
        """Starts to copy Jobs and pods; the cluster need not answer yet. May be called again."""
        if self._cluster is not None:
            return
        self._cluster = await asyncio.to_thread(connect, self._settings)
        loop = asyncio.get_running_loop()

        def notify() -> None:  # called by a mirror's thread, which may outlive the loop
            with suppress(RuntimeError):
                loop.call_soon_threadsafe(self._notify)

        labels = manifests.selector(self._settings)
        for kind in ("jobs", "pods"):
            self._mirrors[kind] = Mirror(self._cluster, kind, labels=labels, notify=notify)
            self._mirrors[kind].start()

    async def close(self) -> None:
        """Stops copying. Jobs run on, and the next service finds them."""
        for mirror in self._mirrors.values():
            await asyncio.to_thread(mirror.close)

    async def start(self, job: TrainingJob, *, attempt: int, token: str) -> Started:
        """Creates an attempt's objects, or finds them created. Raises the error of a job that can never start."""
        self._check(job)
        name = manifests.name_of(job, attempt)
        # A try that was blocked halfway may have created the Secret: its token stays the attempt's.
        token = self._tokens.setdefault(name, token)
        try:
            await self._registry.check_registered(job.spec.base_model)
            await self._registry.check_purpose(job.spec)
        except Unavailable as error:
            raise Blocked("DATA_SERVICE_UNAVAILABLE", error.message) from error
        try:
            made = await self._make(self._plan(job, attempt, token))
        except (Unavailable, PermissionDenied, ResourceExhausted) as error:
            raise _blocked(error) from error
        self._mirrors["jobs"].note(made)
        self._tokens.pop(name, None)
        return Started(Handle(attempt), made["metadata"]["annotations"][manifests.DIGEST_ANNOTATION])

    async def observe(self, job: TrainingJob, handle: Handle | None) -> Observation:
        """What the Job, its pods and, where these say nothing, the events say."""
        if handle is None:
            return Observation(Phase.ABSENT)
        for mirror in self._mirrors.values():
            if not mirror.listed:
                await asyncio.to_thread(mirror.wait, FIRST_ANSWER_SECONDS)
            if (problem := mirror.problem) is not None:
                raise _blocked(problem)
        name = manifests.name_of(job, handle.pid)
        found = self._mirrors["jobs"].get(name) or await self._read(name)
        if found is None or found["metadata"].get("deletionTimestamp"):
            error = FailedPrecondition(
                f"somebody deleted the Kubernetes Job {name}; create the training job again",
                reason="JOB_DELETED",
                metadata={"job": name},
            )
            return Observation(Phase.FAILED, error=error)
        _check_owner(found, job)
        pods = self._mirrors["pods"].where(manifests.POD_JOB_LABEL, name)
        seen = self._observed(ClusterState(found, pods))
        if seen.phase is Phase.FAILED:  # the copy of pods may be older than that of Jobs, and only pods say why
            seen = self._observed(ClusterState(found, await self._read_pods(name)))
        if seen.phase is Phase.WAITING and not seen.reason:
            seen = self._observed(ClusterState(found, pods, await self._read_events(name, pods)))
        return seen

    async def stop(self, job: TrainingJob, handle: Handle | None) -> None:
        """Deletes the Kubernetes Jobs of a job, and returns when they and their pods are gone."""
        deadline = time.monotonic() + STOP_SHOWN_SECONDS
        chosen = f"{manifests.selector(self._settings)},{manifests.UID_LABEL}={job.uid}"
        while True:
            try:
                jobs = await self._api.list("jobs", labels=chosen)
                for item in jobs:
                    if not item["metadata"].get("deletionTimestamp"):
                        await self._api.delete("jobs", item["metadata"]["name"], uid=item["metadata"]["uid"])
                pods = await self._api.list("pods", labels=chosen)
            except (Unavailable, PermissionDenied) as error:
                raise _blocked(error) from error
            living = [pod["metadata"]["name"] for pod in pods if pod["status"].get("phase") not in ENDED_PHASES]
            if not jobs and not living:
                return
            if time.monotonic() > deadline:
                raise Blocked("STOPPING", f"waits for the end of {', '.join(living[:5]) or 'the Job'}")
            await asyncio.sleep(STOP_POLL_SECONDS)

    async def tidy(self, job: TrainingJob, handle: Handle | None) -> None:
        """Deletes a Job that has not ended; one that has stays for `ttl_seconds`, for the logs of its pods.

        The pods of a job that delivered its model are about to exit, and are given `FINISH_SECONDS` to do so.
        """
        name = manifests.name_of(job, handle.pid if handle else job.attempt_count)
        self._events.pop(name, None)
        delivered = job.state == TrainingJob.STATE_SUCCEEDED
        deadline = time.monotonic() + (FINISH_SECONDS if delivered else 0.0)
        while True:
            found = self._mirrors["jobs"].get(name) or await self._read(name)
            if found is None or _finished(found):
                return None
            if found["metadata"].get("deletionTimestamp") or time.monotonic() >= deadline:
                return await self.stop(job, handle)
            await asyncio.sleep(STOP_POLL_SECONDS)

    async def log_tail(self, job: TrainingJob, handle: Handle | None) -> Sequence[str]:
        """The last lines of the pod that says most: the one that broke, or else the first."""
        name = manifests.name_of(job, handle.pid if handle else job.attempt_count)
        pod = most_informative_pod(self._mirrors["pods"].where(manifests.POD_JOB_LABEL, name))
        if pod is None:
            return []
        try:
            text = await self._api.logs(
                pod["metadata"]["name"], container=manifests.CONTAINER, tail_lines=LOG_LINES, limit_bytes=LOG_BYTES
            )
        except OmnialignError:  # its node is gone, or it never started: the termination message is all there is
            return termination_tail(pod)
        return [line[:LINE_CHARACTERS] for line in text.splitlines()[-LOG_LINES:]]

    async def read_log(self, job: TrainingJob, handle: Handle | None, *, position: int) -> LogPart:
        """Lines of the pod that says most, as far as its node keeps them; after a restart, of the new attempt's pod."""
        name = manifests.name_of(job, handle.pid if handle else job.attempt_count)
        pod = most_informative_pod(self._mirrors["pods"].where(manifests.POD_JOB_LABEL, name))
        if pod is None:
            return LogPart((), position)
        try:
            text = await self._api.logs(
                pod["metadata"]["name"], container=manifests.CONTAINER, tail_lines=0, limit_bytes=WHOLE_LOG_BYTES
            )
        except OmnialignError:  # not started yet, or its node is gone
            return LogPart((), position)
        data = text.encode()
        # A shorter log is another pod's.
        return LogPart.of(data[position:], position=position) if len(data) >= position else LogPart.of(data, position=0)

    async def forget(self, unfinished: Sequence[str]) -> None:
        """Deletes the Jobs of this installation that have not ended and belong to none of the `unfinished` jobs."""
        try:
            for item in await self._api.list("jobs", labels=manifests.selector(self._settings)):
                uid = item["metadata"]["labels"].get(manifests.UID_LABEL)
                if uid not in unfinished and not _finished(item):
                    await self._api.delete("jobs", item["metadata"]["name"], uid=item["metadata"]["uid"])
        except (Unavailable, PermissionDenied) as error:
            raise _blocked(error) from error

    @property
    def _api(self) -> Cluster:
        if self._cluster is None:
            raise Blocked("CLUSTER_UNAVAILABLE", "the service is not connected to the cluster yet")
        return self._cluster

    def _observed(self, seen: ClusterState) -> Observation:
        return observe(seen, now=datetime.now(UTC), start_seconds=float(self._settings.deadlines.start_seconds))

    def _check(self, job: TrainingJob) -> None:
        wanted, gpus = max(job.spec.distribution.num_processes, 1), self._settings.gpus
        if gpus and wanted > gpus:
            raise InvalidArgument(
                f"num_processes is {wanted}, but a pod has {gpus} GPU(s): ask for fewer processes on more nodes",
                reason="TRAINING_SPEC_INVALID",
                violations=[("spec.distribution.num_processes", f"must be at most {gpus}")],
            )

    def _plan(self, job: TrainingJob, attempt: int, token: str) -> manifests.Plan:
        return manifests.Plan(
            settings=self._settings,
            job=job,
            attempt=attempt,
            token=token,
            addresses=self._config.addresses(),
            step_timeout_seconds=self._config.step_timeout_seconds,
            metrics_port=self._config.metrics_port,
        )

    async def _make(self, plan: manifests.Plan) -> Object:
        """Creates what does not exist yet, and returns the Job."""
        try:
            made = await self._api.create("jobs", manifests.job_manifest(plan))
        except AlreadyExists:
            made = await self._api.get("jobs", plan.name)
            _check_owner(made, plan.job)
            annotations = made["metadata"].get("annotations") or {}
            if manifests.READY_ANNOTATION in annotations:
                return made
            if annotations.get(manifests.DIGEST_ANNOTATION) != token_digest(plan.token):
                await self._discard(made)
        for kind, manifest in (
            ("secrets", manifests.secret_manifest(plan, owner=made)),
            ("services", manifests.service_manifest(plan, owner=made)),
        ):
            with suppress(AlreadyExists):
                await self._api.create(kind, manifest)
        return await self._api.patch("jobs", plan.name, manifests.ready_patch(self._settings))

    async def _discard(self, found: Object) -> None:
        """Deletes a Job that a dead service left halfway: nobody knows the token in its Secret, if it has one."""
        await self._api.delete("jobs", found["metadata"]["name"], uid=found["metadata"]["uid"])
        raise Blocked("STARTING", "a Job that an earlier service created halfway is being deleted")

    async def _read(self, name: str) -> Object | None:
        """A Job as the API server has it, because a Job must not be declared lost when only the copy is old."""
        try:
            return await self._api.get("jobs", name)
        except NotFound:
            return None
        except (Unavailable, PermissionDenied) as error:
            raise _blocked(error) from error

    async def _read_pods(self, name: str) -> list[Object]:
        """The pods of a Job as the API server has them."""
        try:
            return await self._api.list("pods", labels=f"{manifests.POD_JOB_LABEL}={name}")
        except (Unavailable, PermissionDenied) as error:
            raise _blocked(error) from error

    async def _read_events(self, name: str, pods: Sequence[Object]) -> list[Object]:
        """The events of a Job, its first pending pods and, in a queue, of its Workload, oldest first."""
        read_at, events = self._events.get(name, (float("-inf"), []))
        if time.monotonic() - read_at < EVENTS_SECONDS:
            return events
        pending = [pod["metadata"]["name"] for pod in pods if pod["status"].get("phase") == "Pending"]
        found: list[Object] = []
        try:
            for about in [name, *sorted(pending)[:EVENT_PODS]]:
                found += await self._api.list("events", fields=f"involvedObject.name={about}")
        except (Unavailable, PermissionDenied) as error:
            raise _blocked(error) from error
        events = sorted(found, key=event_time)
        self._events[name] = (time.monotonic(), events)
        return events


def _blocked(error: OmnialignError) -> Blocked:
    return Blocked(error.reason, error.message)


def _finished(job: Object) -> bool:
    conditions = job.get("status", {}).get("conditions") or ()
    return any(c["type"] in ("Complete", "Failed") and c["status"] == "True" for c in conditions)


def _check_owner(found: Object, job: TrainingJob) -> None:
    if (found["metadata"].get("labels") or {}).get(manifests.UID_LABEL) != job.uid:
        name = found["metadata"]["name"]
        raise FailedPrecondition(
            f"a Kubernetes Job named {name} belongs to something else: delete it",
            reason="JOB_NAME_TAKEN",
            metadata={"job": name},
        )
