"""What a caller can do with the jobs of any kind: submit, look, pause, resume, cancel, watch, read the report.

Making a job from a request is up to the kind; everything after that is here.
"""

import functools
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from omnialign import names
from omnialign.errors import AlreadyExists, FailedPrecondition, NotFound, OmnialignError
from services.pipeline.job_store import Event, JobStore, event_job
from services.pipeline.job_tables import JobTables
from services.pipeline.kind import Job, JobKind, Plan
from services.pipeline.notifier import Notifier
from services.pipeline.service_calls import ClientPool
from services.runtime.limits import Quotas
from services.runtime.requests import body_digest, check_same_body, decode_token, encode_token, page_size
from services.runtime.uses import Uses

LOOK_SECONDS = 1.0
EVENTS_PER_READ = 100


class Jobs:
    """The jobs of a kind. `start` queues the workflow of a job, and `cancel` begins to end one; both take its uid."""

    def __init__(
        self,
        store: JobStore,
        *,
        kind: JobKind,
        start: Callable[[str], Awaitable[None]],
        cancel: Callable[[str], None],
        tables: JobTables,
        clients: ClientPool,
        notifier: Notifier,
        quotas: Quotas,
        uses: Uses,
    ) -> None:
        self._store, self._kind = store, kind
        self._tables, self._clients = tables, clients
        self._start, self._cancel, self._notifier = start, cancel, notifier
        self._quotas, self._uses = quotas, uses

    async def find_request(self, request: Any) -> Job | None:
        """The job that the same create request made before; None if there is none.

        Raises InvalidArgument (`REQUEST_ID_REUSED`) if its request id came with another body then.
        """
        if not request.request_id:
            return None
        found = await self._store.find_request(request.parent, request.request_id)
        if found is None:
            return None
        check_same_body(found[1], request, request_id=request.request_id)
        return found[0]

    async def submit(self, request: Any, job: Job, plan: Plan) -> Job:
        """Stores a new job and queues its workflow; returns the job that is stored.

        Raises AlreadyExists (`JOB_EXISTS`; `JOB_ID_TAKEN` by a job of another kind, or one that was deleted),
        InvalidArgument (`REQUEST_ID_REUSED`), ResourceExhausted (`QUOTA_EXCEEDED`), and NotFound for what was deleted
        meanwhile.
        """
        await self._quotas.check(request.parent, self._kind.quota, lambda: self._store.unfinished_count(request.parent))
        # If this process dies before the job is stored, or another has its name, the use runs out by itself.
        await self._uses.begin(job.name, job, plan)
        try:
            digest = body_digest(request)
            await self._store.insert(job, plan=plan, request_id=request.request_id, digest=digest)
        except AlreadyExists:
            if (earlier := await self.find_request(request)) is not None:  # it lost a race against its own repetition
                return earlier
            raise
        try:
            await self._tables.claim(job, await self._clients.of(names.project_of(request.parent)))
        except OmnialignError:
            await self._store.delete(job.uid)
            await self._uses.end(job.name)
            raise
        # If this process dies here, a supervisor finds the job QUEUED and queues its workflow.
        await self._start(job.uid)
        return job

    async def get(self, name: str) -> Job:
        """The job of this name. Raises NotFound (`JOB_NOT_FOUND`)."""
        names.parse(name, self._kind.pattern)
        return await self._store.get(name)

    async def page(self, request: Any) -> tuple[list[Job], str]:
        """One page of the jobs of a project, newest first, and the token of the next page."""
        names.parse(request.parent, names.PROJECT, field="parent")
        key = decode_token(request.page_token, filter=request.parent, kinds=(int, str))
        size = page_size(request.page_size)
        before = (int(key[0]), key[1]) if key else None
        rows = await self._store.page(request.parent, before=before, limit=size + 1)
        token = ""
        if len(rows) > size:
            created, job = rows[size - 1]
            token = encode_token([str(created), job.uid], filter=request.parent)
        return [job for _, job in rows[:size]], token

    async def pause(self, name: str) -> Job:
        """Holds a job: what is in flight ends, and nothing new begins. Pausing a paused job changes nothing."""
        job = await self.get(name)
        return await self._store.change(job.uid, functools.partial(_pause, kind=self._kind))

    async def resume(self, name: str) -> Job:
        """Continues a paused job. Resuming a job that runs changes nothing."""
        job = await self.get(name)
        return await self._store.change(job.uid, functools.partial(_resume, kind=self._kind))

    async def cancel(self, name: str) -> Job:
        """Ends a job in any stage. Cancelling an ended job changes nothing."""
        job = await self.get(name)
        job = await self._store.change(job.uid, functools.partial(_cancel, kind=self._kind))
        if job.state == self._kind.job.STATE_CANCELLING:
            self._cancel(job.uid)
        return job

    async def delete(self, name: str) -> None:
        """Deletes a job that has ended. Raises NotFound, and FailedPrecondition (`JOB_STATE`) for any other."""
        job = await self.get(name)
        if job.state not in self._kind.ended:
            raise _wrong_state(job, self._kind, verb="deleted", mend="; cancel it, or wait until it has ended")
        await self._store.delete(job.uid)

    async def watch(self, name: str, *, resume_after: int) -> AsyncIterator[Event]:
        """The events of a job with numbers above `resume_after`, as they come, until the job has ended."""
        job = await self.get(name)
        last, changed = resume_after, self._notifier.job_changed
        while True:
            seen = changed.count
            events = await self._store.events(job.uid, after=last, limit=EVENTS_PER_READ)
            for event in events:
                last = event.sequence
                yield event
            if events and event_job(self._kind, events[-1]).state in self._kind.ended:
                return
            if not events:
                # The state is read before the events are looked for once more: an event between the two is not lost.
                has_ended = await self._store.state(job.uid) in self._kind.ended
                if has_ended and not await self._store.events(job.uid, after=last):
                    return
            if len(events) < EVENTS_PER_READ:
                await changed.wait(timeout_seconds=LOOK_SECONDS, since=seen)

    async def report(self, name: str, *, report_format: str) -> AsyncIterator[bytes]:
        """The report of a job in one format, piece by piece.

        Raises FailedPrecondition (`REPORT_NOT_READY`) before the job succeeded, and NotFound (`REPORT_NOT_FOUND`).
        """
        job = await self.get(name)
        if job.state != self._kind.job.STATE_SUCCEEDED:
            about = f"it is {self._kind.state_label(job.state)}, and only a job that succeeded has one"
            message = f"the {self._kind.noun} '{name}' has no report: {about}"
            state = self._kind.job.State.Name(job.state)
            raise FailedPrecondition(message, reason="REPORT_NOT_READY", metadata={"name": name, "state": state})
        is_there = False
        async for piece in self._store.report(job.uid, report_format=report_format):
            is_there = True
            yield piece
        if not is_there:
            raise NotFound(f"the report of '{name}' is gone", reason="REPORT_NOT_FOUND", metadata={"name": name})


def _pause(job: Job, *, kind: JobKind) -> str | None:
    if job.state == kind.job.STATE_PAUSED:
        return None
    if job.state not in (kind.job.STATE_QUEUED, kind.job.STATE_RUNNING):
        raise _wrong_state(job, kind, verb="paused")
    job.state = kind.job.STATE_PAUSED
    return "Paused."


def _resume(job: Job, *, kind: JobKind) -> str | None:
    if job.state in (kind.job.STATE_QUEUED, kind.job.STATE_RUNNING):
        return None
    if job.state != kind.job.STATE_PAUSED:
        raise _wrong_state(job, kind, verb="resumed")
    job.state = kind.job.STATE_RUNNING
    return "Resumed."


def _cancel(job: Job, *, kind: JobKind) -> str | None:
    if job.state in kind.ended or job.state == kind.job.STATE_CANCELLING:
        return None
    job.state = kind.job.STATE_CANCELLING
    return "Cancelling."


def _wrong_state(job: Job, kind: JobKind, *, verb: str, mend: str = "") -> FailedPrecondition:
    state = kind.job.State.Name(job.state)
    message = f"the {kind.noun} '{job.name}' cannot be {verb}: it is {kind.state_label(job.state)}{mend}"
    return FailedPrecondition(message, reason="JOB_STATE", metadata={"name": job.name, "state": state})
