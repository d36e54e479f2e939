"""Training jobs as their callers see them: create, read, list, cancel, watch; and, from the job, report and deliver.

A delivered model goes on to the data service as it comes in, so a model of any size needs no more memory or disk here
than one message.
"""

import asyncio
import hmac
import uuid
from collections.abc import AsyncIterator

from omnialign import names
from omnialign.errors import Aborted, FailedPrecondition, InvalidArgument, PermissionDenied, Unauthenticated
from omnialign.folders import FileEntry
from omnialign.retry import wait_for_event
from omnialign.v1.training_service_pb2 import (
    CreateTrainingJobRequest,
    DeliverModelRequest,
    TrainingJob,
    TrainingProgress,
    WatchTrainingJobResponse,
)
from services.runtime.limits import Quotas
from services.runtime.locks import NamedLocks
from services.runtime.uses import Uses
from services.training.conditions import note_report
from services.training.job_directory import check_spec
from services.training.launcher import token_digest
from services.training.model_registry import ModelRegistry
from services.training.preflight import Preflight
from services.training.store import ENDED, Entry, Store, note_running, now, settle

WATCH_POLL_SECONDS = 1.0
"""How often a watch looks at the store unasked, for changes that another replica made."""


class Notifier:
    """Wakes everybody who waits for any job to change."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def notify_all(self) -> None:
        """Wakes all who hold an event of `subscribe`."""
        self._event.set()
        self._event = asyncio.Event()

    def subscribe(self) -> asyncio.Event:
        """An event that the next change sets. Take it before looking at the store, and no change is missed."""
        return self._event


class Jobs:
    """The jobs of a service. The supervisor, which runs them, hears of changes through `notifier`."""

    def __init__(
        self,
        store: Store,
        notifier: Notifier,
        *,
        preflight: Preflight,
        uses: Uses,
        max_nodes: int = 1,
        quotas: Quotas | None = None,
    ) -> None:
        self._store = store
        self._preflight, self._uses = preflight, uses
        self._notifier = notifier
        self._max_nodes = max_nodes
        self._quotas = quotas or Quotas()

    async def create(self, request: CreateTrainingJobRequest) -> TrainingJob:
        """Queues a job, or with `validate_only` returns what it would be.

        Raises `InvalidArgument` for a spec that cannot run, `AlreadyExists` for an id that is taken, `Unavailable`
        while the data service is away, and `ResourceExhausted`: MEMORY_TOO_SMALL for a job that no device has room
        for, QUOTA_EXCEEDED when the project has as many unfinished jobs as it may.
        """
        names.parse(request.parent, names.PROJECT, field="parent")
        spec = request.training_job.spec
        parsed = check_spec(spec, max_nodes=self._max_nodes)
        memory = await self._preflight.inspect(spec.base_model, parsed, must_answer=request.validate_only)
        uid = str(uuid.uuid4())
        name = f"{request.parent}/trainingJobs/{request.training_job_id or f'job-{uid[:12]}'}"
        job = TrainingJob(name=name, uid=uid, state=TrainingJob.STATE_QUEUED, create_time=now())
        job.spec.CopyFrom(spec)
        if memory is not None:
            job.memory.CopyFrom(memory)
        if request.validate_only:
            return job
        if (earlier := await self._store.made_by(request)) is not None:
            return earlier
        await self._quotas.check(request.parent, "training_jobs", lambda: self._store.unfinished_count(request.parent))
        # If this process dies before the job is stored, or another has its name, the use runs out by itself.
        await self._uses.begin(name, spec, allow_missing=True)
        made = await self._store.create(job, request, parent=request.parent)
        self._notifier.notify_all()
        return made

    async def get(self, name: str) -> TrainingJob:
        """A job. Raises `NotFound`."""
        names.parse(name, names.TRAINING_JOB)
        return (await self._store.get(name)).job

    async def page(self, parent: str, *, after: list[str], limit: int) -> list[TrainingJob]:
        """Jobs of a project, from newest to oldest."""
        names.parse(parent, names.PROJECT, field="parent")
        return await self._store.page(parent, after=after, limit=limit)

    async def cancel(self, name: str) -> TrainingJob:
        """Asks a job to stop; one that has ended stays as it is."""
        names.parse(name, names.TRAINING_JOB)

        def cancelling(entry: Entry) -> None:
            if entry.job.state not in ENDED:
                entry.job.state = TrainingJob.STATE_CANCELLING

        entry = await self._store.update(name, cancelling)
        self._notifier.notify_all()
        return entry.job

    async def report(self, name: str, progress: TrainingProgress, *, token: str) -> bool:
        """Records a report of the job itself; True when it should stop. An empty report is only a heartbeat.

        Raises `Unauthenticated` without a token and `PermissionDenied` for a token that is not the job's.
        """
        await self.own(name, token=token)

        def reported(entry: Entry) -> None:
            if entry.job.state in ENDED:
                return
            note_report(entry.job.progress, progress)
            note_running(entry)

        entry = await self._store.update(name, reported)
        self._notifier.notify_all()
        return entry.job.state == TrainingJob.STATE_CANCELLING or entry.job.state in ENDED

    async def own(self, name: str, *, token: str) -> Entry:
        """The job that `token` belongs to. Raises `Unauthenticated` without one, `PermissionDenied` for another's."""
        names.parse(name, names.TRAINING_JOB)
        if not token:
            raise Unauthenticated("this call needs the job's own token", reason="TOKEN_MISSING")
        entry = await self._store.get(name)
        # In constant time, so that answers do not tell how much of a guessed digest is right.
        if not entry.token_digest or not hmac.compare_digest(entry.token_digest, token_digest(token)):
            raise PermissionDenied("the token is not this job's", reason="TOKEN_WRONG", metadata={"name": name})
        return entry

    async def watch(self, name: str, *, resume_after: int) -> AsyncIterator[WatchTrainingJobResponse]:
        """The events with numbers above `resume_after`, each once and in order, until the job has ended."""
        await self.get(name)
        seen = resume_after
        while True:
            change = self._notifier.subscribe()
            # The job is read before its events: if it has ended, the event that says so is among those read next.
            ended = (await self._store.get(name)).job.state in ENDED
            events = await self._store.events(name, after=seen)
            for event in events:
                yield event
                seen = event.sequence
            if not events and ended:
                return
            if not events:
                await wait_for_event(change, timeout_seconds=WATCH_POLL_SECONDS)


class Deliveries:
    """The receiving end of DeliverModel. One delivery of a job at a time; others of it wait and get its result."""

    def __init__(self, jobs: Jobs, *, store: Store, notifier: Notifier, registry: ModelRegistry, uses: Uses) -> None:
        self._jobs, self._store, self._notifier, self._registry = jobs, store, notifier, registry
        self._uses = uses
        self._locks = NamedLocks()

    async def receive(self, messages: AsyncIterator[DeliverModelRequest], *, token: str) -> str:
        """Receives a model, ends its job as SUCCEEDED, and returns the model's name; safe to repeat.

        Raises `InvalidArgument` (DELIVERY_MALFORMED), `FailedPrecondition` (JOB_NOT_RUNNING, ATTEMPT_OUTDATED), the
        errors of the token, and the data service's.
        """
        header = await anext(aiter(messages), None)
        if header is None or header.WhichOneof("message") != "header":
            raise _malformed("the first message of a delivery must be its header")
        name, attempt = header.header.name, header.header.attempt
        await self._jobs.own(name, token=token)
        async with self._locks[name]:
            # Read again: the delivery that held the lock may have ended the job.
            entry = await self._jobs.own(name, token=token)
            if entry.job.state == TrainingJob.STATE_SUCCEEDED:
                return entry.job.model
            _check_expected(entry, attempt)
            model = await self._registry.upload_pieces(entry.job, _pieces(messages))
            return await self._settle(name, attempt, model)

    async def _settle(self, name: str, attempt: int, model: str) -> str:
        """Ends the job with its model, unless it was cancelled or restarted while the model came in."""

        def delivered(entry: Entry) -> None:
            if entry.job.state in (TrainingJob.STATE_QUEUED, TrainingJob.STATE_RUNNING):
                _check_expected(entry, attempt)
                note_running(entry)
                settle(entry, TrainingJob.STATE_SUCCEEDED, model=model)

        await self._uses.end(name)
        entry = await self._store.update(name, delivered)
        self._notifier.notify_all()
        if entry.job.state != TrainingJob.STATE_SUCCEEDED:
            raise Aborted("the job was stopped while its model came in", reason="JOB_NOT_RUNNING")
        return entry.job.model


def _check_expected(entry: Entry, attempt: int) -> None:
    # QUEUED is fine: a job whose pods the service has not yet seen running can deliver all the same.
    if entry.job.state in ENDED or entry.job.state == TrainingJob.STATE_CANCELLING:
        state = TrainingJob.State.Name(entry.job.state)
        raise FailedPrecondition(
            f"the job is {state} and accepts no model", reason="JOB_NOT_RUNNING", metadata={"state": state}
        )
    if entry.job.attempt_count != attempt:
        raise FailedPrecondition(
            f"attempt {attempt} delivers a model, but the current attempt is {entry.job.attempt_count}",
            reason="ATTEMPT_OUTDATED",
            metadata={"attempt": str(attempt), "current": str(entry.job.attempt_count)},
        )


async def _pieces(messages: AsyncIterator[DeliverModelRequest]) -> AsyncIterator[FileEntry | bytes]:
    """The files of a delivery, each followed by its bytes. The receiver of the bytes checks order and sizes."""
    begun = False
    async for message in messages:
        kind = message.WhichOneof("message")
        if kind == "file":
            begun = True
            file = message.file
            yield FileEntry(file.path, file.size_bytes, file.sha256)
        elif kind == "chunk" and begun:
            yield message.chunk
        else:
            raise _malformed("after the header come files, each followed by its bytes")
    if not begun:
        raise _malformed("a delivery without a file is not a model")


def _malformed(message: str) -> InvalidArgument:
    return InvalidArgument(message, reason="DELIVERY_MALFORMED")
