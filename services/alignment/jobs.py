"""What a caller can do with alignment jobs: submit, look, pause, resume, cancel, watch, read the report."""

import logging
import uuid
from collections.abc import AsyncIterator, Awaitable, Callable

from omnialign import names
from omnialign.errors import AlreadyExists, FailedPrecondition, NotFound
from omnialign.v1 import alignment_service_pb2
from services.alignment import preflight
from services.alignment.job import STAGES, project_of
from services.alignment.peers import Directory
from services.alignment.resolve import resolve
from services.alignment.stages import skipped
from services.alignment.store import ENDED, Event, Job, Store
from services.runtime.auth.quotas import Quotas
from services.runtime.idempotency import body_digest, check_same_body
from services.runtime.paging import decode_token, encode_token, page_size

StageStatus = alignment_service_pb2.StageStatus
Format = alignment_service_pb2.GetAlignmentReportRequest.Format
LOOK_SECONDS = 1.0
EVENTS_PER_READ = 100
REPORT_FORMATS: dict[int, str] = {Format.FORMAT_HTML: "html"}

Starter = Callable[[str], Awaitable[None]]
Canceller = Callable[[str], None]

logger = logging.getLogger(__name__)


class Jobs:
    """The jobs. `start` queues the workflow of a job; `cancel` begins to end what runs of one."""

    def __init__(
        self,
        store: Store,
        *,
        directory: Directory,
        start: Starter,
        cancel: Canceller,
        quotas: Quotas | None = None,
    ) -> None:
        self._store, self._directory = store, directory
        self._start, self._cancel = start, cancel
        self._quotas = quotas or Quotas()

    async def create(self, request: alignment_service_pb2.CreateAlignmentJobRequest) -> Job:
        """Submits a job, or with `validate_only` says what it would be.

        Raises what `resolve` and `inspect` raise, AlreadyExists (`JOB_EXISTS`), InvalidArgument
        (`REQUEST_ID_REUSED`), and ResourceExhausted (`QUOTA_EXCEEDED`).
        """
        if (earlier := await self._earlier(request)) is not None:
            return earlier
        peers = await self._directory.of(project_of(request.parent))
        plan, models = await resolve(request.alignment_job.spec, peers, parent=request.parent)
        job = _new_job(request, models)
        for status in job.stages:
            if status.stage in skipped(plan, models):
                status.state = StageStatus.STATE_SKIPPED
        if request.validate_only:
            job.preflight.CopyFrom(await preflight.inspect(plan, peers))
            return job
        await self._quotas.check(request.parent, "alignment_jobs", lambda: self._store.unfinished_count(request.parent))
        try:
            digest = body_digest(request)
            await self._store.insert(job, plan=plan, request_id=request.request_id, digest=digest)
        except AlreadyExists:
            if (earlier := await self._earlier(request)) is not None:  # lost the race against its own repetition
                return earlier
            raise
        await self._start(job.uid)
        return job

    async def get(self, name: str) -> Job:
        """The job of this name. Raises NotFound (`JOB_NOT_FOUND`)."""
        names.parse(name, names.ALIGNMENT_JOB)
        return await self._store.get(name)

    async def page(
        self, request: alignment_service_pb2.ListAlignmentJobsRequest
    ) -> alignment_service_pb2.ListAlignmentJobsResponse:
        """One page of the jobs of a project, newest first."""
        names.parse(request.parent, names.PROJECT, field="parent")
        key = decode_token(request.page_token, filter=request.parent)
        size = page_size(request.page_size)
        before = (int(key[0]), key[1]) if key else None
        rows = await self._store.page(request.parent, before=before, limit=size + 1)
        answer = alignment_service_pb2.ListAlignmentJobsResponse(alignment_jobs=[job for _, job in rows[:size]])
        if len(rows) > size:
            created, job = rows[size - 1]
            answer.next_page_token = encode_token([str(created), job.uid], filter=request.parent)
        return answer

    async def pause(self, name: str) -> Job:
        """Holds a job: what is in flight ends, nothing new begins. Pausing a paused job changes nothing."""
        job = await self.get(name)
        return await self._store.change(job.uid, _pause)

    async def resume(self, name: str) -> Job:
        """Goes on with a paused job. Resuming a job that runs changes nothing."""
        job = await self.get(name)
        return await self._store.change(job.uid, _resume)

    async def cancel(self, name: str) -> Job:
        """Ends a job in any stage. Cancelling an ended job changes nothing."""
        job = await self.get(name)
        job = await self._store.change(job.uid, _cancel)
        if job.state == Job.STATE_CANCELLING:
            self._cancel(job.uid)
        return job

    async def watch(self, name: str, *, resume_after: int) -> AsyncIterator[Event]:
        """The events of a job after a number, as they come, until the job has ended."""
        job = await self.get(name)
        last = resume_after
        while True:
            events = await self._store.events(job.uid, after=last, limit=EVENTS_PER_READ)
            for event in events:
                last = event.sequence
                yield event
            if events and events[-1].alignment_job.state in ENDED:
                return
            if not events:
                if await self._store.state(job.uid) in ENDED and not await self._store.events(job.uid, after=last):
                    return
                await self._store.news.changed.wait(timeout_seconds=LOOK_SECONDS)

    async def report(self, name: str, *, report_format: int) -> AsyncIterator[bytes]:
        """The report, piece by piece.

        Raises FailedPrecondition (`REPORT_NOT_READY`) before the job succeeded, and NotFound (`REPORT_NOT_FOUND`).
        """
        job = await self.get(name)
        if job.state != Job.STATE_SUCCEEDED:
            state = Job.State.Name(job.state)
            message = f"the alignment job '{name}' has no report: it is {state}, and only a job that succeeded has one"
            raise FailedPrecondition(message, reason="REPORT_NOT_READY", metadata={"name": name, "state": state})
        is_there = False
        async for piece in self._store.report(job.uid, report_format=REPORT_FORMATS.get(report_format, "json")):
            is_there = True
            yield piece
        if not is_there:
            raise NotFound(f"the report of '{name}' is gone", reason="REPORT_NOT_FOUND", metadata={"name": name})

    async def _earlier(self, request: alignment_service_pb2.CreateAlignmentJobRequest) -> Job | None:
        """The job that the same request made before."""
        if not request.request_id:
            return None
        found = await self._store.find_request(request.parent, request.request_id)
        if found is None:
            return None
        check_same_body(found[1], request, request_id=request.request_id)
        return found[0]


def _new_job(request: alignment_service_pb2.CreateAlignmentJobRequest, models: alignment_service_pb2.JobModels) -> Job:
    uid = str(uuid.uuid4())
    job_id = request.alignment_job_id or f"job-{uid[:8]}"
    name = names.format_name(names.ALIGNMENT_JOB, project=project_of(request.parent), alignment_job=job_id)
    job = Job(name=name, uid=uid, spec=request.alignment_job.spec, state=Job.STATE_QUEUED, models=models)
    for stage in STAGES:
        job.stages.add(stage=stage, state=StageStatus.STATE_PENDING)
    job.create_time.GetCurrentTime()
    job.update_time.CopyFrom(job.create_time)
    return job


def _pause(job: Job) -> str | None:
    if job.state == Job.STATE_PAUSED:
        return None
    if job.state not in (Job.STATE_QUEUED, Job.STATE_RUNNING):
        raise _wrong_state(job, "paused")
    job.state = Job.STATE_PAUSED
    return "Paused."


def _resume(job: Job) -> str | None:
    if job.state in (Job.STATE_QUEUED, Job.STATE_RUNNING):
        return None
    if job.state != Job.STATE_PAUSED:
        raise _wrong_state(job, "resumed")
    job.state = Job.STATE_RUNNING
    return "Resumed."


def _cancel(job: Job) -> str | None:
    if job.state in ENDED or job.state == Job.STATE_CANCELLING:
        return None
    job.state = Job.STATE_CANCELLING
    return "Cancelling."


def _wrong_state(job: Job, verb: str) -> FailedPrecondition:
    state = Job.State.Name(job.state)
    message = f"the alignment job '{job.name}' cannot be {verb}: it is {state}"
    return FailedPrecondition(message, reason="JOB_STATE", metadata={"name": job.name, "state": state})
