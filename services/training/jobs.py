"""Training jobs as their callers see them: create, read, list, cancel, watch, report."""

import asyncio
import hmac
import uuid
from collections.abc import AsyncIterator
from contextlib import suppress

from omnialign import names
from omnialign.errors import PermissionDenied, Unauthenticated
from omnialign.v1.training_service_pb2 import (
    CreateTrainingJobRequest,
    TrainingJob,
    TrainingProgress,
    WatchTrainingJobResponse,
)
from services.runtime.auth.quotas import Quotas
from services.training.store import ENDED, Entry, Store, now
from services.training.tokens import token_digest
from services.training.transitions import note_running
from services.training.workplace import check

WATCH_POLL_SECONDS = 1.0


class Changes:
    """Wakes everybody who waits for any job to change."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def announce(self) -> None:
        """Something changed."""
        self._event.set()
        self._event = asyncio.Event()

    def subscribe(self) -> asyncio.Event:
        """An event that the next change sets; take it before looking at the store, and no change is missed."""
        return self._event


class Jobs:
    """The jobs of a service. The supervisor, which runs them, is told through `changes`."""

    def __init__(self, store: Store, changes: Changes, *, max_nodes: int = 1, quotas: Quotas | None = None) -> None:
        self._store = store
        self._changes = changes
        self._max_nodes = max_nodes
        self._quotas = quotas or Quotas()

    async def create(self, request: CreateTrainingJobRequest) -> TrainingJob:
        """Queues a job.

        Raises `InvalidArgument` for a spec that cannot run, `AlreadyExists` for a taken id, and `ResourceExhausted`
        (QUOTA_EXCEEDED) when the project has as many as it may.
        """
        names.parse(request.parent, names.PROJECT, field="parent")
        check(request.training_job.spec, max_nodes=self._max_nodes)
        uid = str(uuid.uuid4())
        name = f"{request.parent}/trainingJobs/{request.training_job_id or f'job-{uid[:12]}'}"
        job = TrainingJob(name=name, uid=uid, state=TrainingJob.STATE_QUEUED, create_time=now())
        job.spec.CopyFrom(request.training_job.spec)
        await self._quotas.check(request.parent, "training_jobs", lambda: self._store.unfinished_count(request))
        made = await self._store.create(job, request, parent=request.parent)
        self._changes.announce()
        return made

    async def get(self, name: str) -> TrainingJob:
        """A job. Raises `NotFound`."""
        names.parse(name, names.TRAINING_JOB)
        return (await self._store.get(name)).job

    async def page(self, parent: str, *, after: list[str], limit: int) -> list[TrainingJob]:
        """Jobs of a project, newest first."""
        names.parse(parent, names.PROJECT, field="parent")
        return await self._store.page(parent, after=after, limit=limit)

    async def cancel(self, name: str) -> TrainingJob:
        """Asks a job to stop; one that has ended stays as it is."""
        names.parse(name, names.TRAINING_JOB)

        def cancelling(entry: Entry) -> None:
            if entry.job.state not in ENDED:
                entry.job.state = TrainingJob.STATE_CANCELLING

        entry = await self._store.update(name, cancelling)
        self._changes.announce()
        return entry.job

    async def report(self, name: str, progress: TrainingProgress, *, token: str) -> bool:
        """Takes a job's word on itself; True when it should stop. One without steps is a sign of life and no more.

        Raises `Unauthenticated` without a token and `PermissionDenied` for a token that is not the job's.
        """
        await self.own(name, token=token)

        def reported(entry: Entry) -> None:
            if entry.job.state in ENDED:
                return
            if progress.completed_steps or progress.total_steps:
                entry.job.progress.CopyFrom(progress)
            entry.job.progress.heartbeat_time.CopyFrom(now())
            note_running(entry)

        entry = await self._store.update(name, reported)
        self._changes.announce()
        return entry.job.state == TrainingJob.STATE_CANCELLING or entry.job.state in ENDED

    async def own(self, name: str, *, token: str) -> Entry:
        """The job whose token this is. Raises `Unauthenticated` without one, `PermissionDenied` for another's."""
        names.parse(name, names.TRAINING_JOB)
        if not token:
            raise Unauthenticated("this call needs the job's own token", reason="TOKEN_MISSING")
        entry = await self._store.get(name)
        if not entry.token_digest or not hmac.compare_digest(entry.token_digest, token_digest(token)):
            raise PermissionDenied("the token is not this job's", reason="TOKEN_WRONG", metadata={"name": name})
        return entry

    async def watch(self, name: str, *, resume_after: int) -> AsyncIterator[WatchTrainingJobResponse]:
        """The events after a number, each once and in order, until the job has ended."""
        await self.get(name)
        seen = resume_after
        while True:
            change = self._changes.subscribe()
            # The job is read first: an event that makes it end is then surely among the events read.
            ended = (await self._store.get(name)).job.state in ENDED
            events = await self._store.events(name, after=seen)
            for event in events:
                yield event
                seen = event.sequence
            if not events and ended:
                return
            if not events:
                await _wait(change, seconds=WATCH_POLL_SECONDS)


async def _wait(event: asyncio.Event, *, seconds: float) -> None:
    # Not `wait_for`: in Python 3.11 it loses a cancellation that comes together with the event.
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await event.wait()
