"""Runs the workflows of jobs and of their chunks: what pauses, what fails, what is replayed after a restart.

Code between the steps runs again after a restart, so it decides only by what steps returned. A step may run again too,
if the process died before its result was kept; each one is written for that.
"""

import asyncio
import contextlib
import functools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from omnialign import names
from omnialign.errors import FailedPrecondition, Internal, NotFound, OmnialignError, to_status
from services.pipeline.chunk_store import ChunkState, ChunkStore
from services.pipeline.chunk_worker import Chunk, ChunkWorker
from services.pipeline.job_store import JobStore
from services.pipeline.kind import Job, JobContext, JobKind, JobProgram, Phase, Step, phases_of, stage_of
from services.pipeline.notifier import Notifier
from services.pipeline.progress import Progress, StageUpdater
from services.pipeline.quarantine import check_quarantine
from services.pipeline.service_calls import ClientPool
from services.pipeline.workflow_engine import WorkflowEngine
from services.runtime import tracing
from services.runtime.uses import Uses

LOOK_SECONDS = 1.0
"""How often changes by other replicas are looked for."""
DEAD_LOOK_SECONDS = 5.0
MAX_STARTS = 5
"""Times that a job may be taken up without progress; some of the deaths in between may be another job's doing."""
FORGIVE_SECONDS = 1.0
CHECK_SECONDS = 0.25
"""How soon after this process committed something the rest of a job is looked at."""

StageBody = Callable[[JobContext], Awaitable[str | None]]

logger = logging.getLogger(__name__)


class Stopped(Exception):
    """The job is being cancelled or has ended: there is nothing more to do."""


class JobGate:
    """Loads jobs for those who work on them, and holds them back while a job is paused."""

    def __init__(self, kind: JobKind, *, jobs: JobStore, clients: ClientPool, notifier: Notifier) -> None:
        self._kind, self._jobs, self._clients, self._notifier = kind, jobs, clients, notifier

    async def context(self, uid: str) -> JobContext:
        """The job as it is now."""
        job, plan = await self._jobs.load(uid)
        return JobContext(self._kind, job, plan, await self._clients.of(names.project_of(job.name)))

    async def wait_while_paused(self, uid: str) -> None:
        """Returns when the job may go on; raises Stopped when it may not."""
        states = self._notifier.states
        if uid not in states:
            states[uid] = await self._jobs.state(uid)
        while (state := states[uid]) == self._kind.job.STATE_PAUSED:
            await self._notifier.job_changed.wait(timeout_seconds=LOOK_SECONDS)
            states[uid] = await self._jobs.state(uid)
        if state in self._kind.ended or state == self._kind.job.STATE_CANCELLING:
            raise Stopped


class JobRunner:
    """The workflows of a kind's jobs and chunks (`workflow_engine.Workflows`)."""

    def __init__(
        self,
        program: JobProgram,
        *,
        kind: JobKind,
        engine: WorkflowEngine,
        gate: JobGate,
        jobs: JobStore,
        chunks: ChunkStore,
        worker: ChunkWorker,
        updater: StageUpdater,
        progress: Progress,
        notifier: Notifier,
        uses: Uses,
    ) -> None:
        self.kind, self.engine, self.gate = kind, engine, gate
        self.jobs, self.chunks = jobs, chunks
        self.updater, self.progress, self.notifier = updater, progress, notifier
        self._program, self._worker, self._uses = program, worker, uses
        self._phases = {phase.name: phase for phase in program.phases}

    async def run_job(self, uid: str) -> None:
        """Works on a job until it has ended."""
        try:
            self.progress.lead(uid)
            await self.jobs.change(uid, functools.partial(_begin, kind=self.kind))
            await self._check_starts(uid)
            await self._program.run(RunningJob(self, uid))
            await self._succeed(uid)
        except Stopped:
            return
        except asyncio.CancelledError:  # the process ends in good order
            with contextlib.suppress(OmnialignError, TimeoutError):
                async with asyncio.timeout(FORGIVE_SECONDS):
                    await self.jobs.forgive_starts(uid)
            raise
        except OmnialignError as error:
            await self._fail(uid, error)
        except Exception as error:
            logger.exception("job %s failed because of a bug", uid)
            await self._fail(uid, Internal(f"{type(error).__name__}: {error}", reason="PIPELINE_FAILED"))
        finally:
            self.forget(uid)

    async def run_chunks(self, uid: str, phase: str, numbers: Sequence[int]) -> None:
        """Works on chunks until they are done, the job is stopped, or one of them fails, which ends the job.

        The chunks' rows in the job database say which steps are committed, so the engine need not remember them.
        """
        async with self._noting_failure(uid, phase, numbers[0]):
            await self.gate.wait_while_paused(uid)
            context = await self.gate.context(uid)
            steps = [step.name for step in self._phases[phase].steps]
            states = await self.chunks.begin_chunks(uid, phase=phase, numbers=numbers, steps=steps)
            async with asyncio.TaskGroup() as group:
                for number, state in states.items():
                    group.create_task(self._run_chunk(context, phase, number, state))

    async def _run_chunk(self, context: JobContext, phase: str, number: int, state: ChunkState) -> None:
        """Works on one chunk; it may fail without those beside it."""
        uid, chunk = context.uid, Chunk(phase, number, state.record_ids, state.is_repeated)
        span = tracing.span(f"chunk {phase}", is_root=True, job_uid=uid, chunk=number, records=len(chunk.ids))
        async with self._noting_failure(uid, phase, number):
            with span:
                for step in self._phases[phase].steps:
                    if step.name not in state.committed:
                        await self.gate.wait_while_paused(uid)
                        while not await step.may_begin(context):
                            await self.gate.wait_while_paused(uid)
                        await self._run_step(context, chunk, step)

    @contextlib.asynccontextmanager
    async def _noting_failure(self, uid: str, phase: str, number: int) -> AsyncIterator[None]:
        """Notes what ends a chunk, unless the job is stopped."""
        try:
            yield
        except Stopped:
            return
        except OmnialignError as error:
            await self.chunks.put_failure(uid, phase=phase, number=number, error=error)
        except Exception as error:
            logger.exception("chunk %s of job %s failed because of a bug", number, uid)
            failure = Internal(f"{type(error).__name__}: {error}", reason="CHUNK_FAILED")
            await self.chunks.put_failure(uid, phase=phase, number=number, error=failure)

    def forget(self, uid: str) -> None:
        """Drops what is kept of a job in memory."""
        self.progress.forget(uid)
        self.notifier.forget(uid)
        self._worker.forget(uid)

    async def check(self, context: JobContext, phase: Phase) -> None:
        """Raises what ended a chunk of a phase, or FailedPrecondition (`QUARANTINE_LIMIT`)."""
        failure = await self.chunks.failure(context.uid, phase=phase.name)
        if failure is not None:
            raise failure
        job, plan = await self.jobs.load(context.uid)
        if any(status.quarantined for status in job.stages):
            totals = await self.chunks.totals(context.uid)
            check_quarantine(job, phases_of(job, self._program.phases), totals, limit=self.kind.quarantine_limit(plan))

    async def _run_step(self, context: JobContext, chunk: Chunk, step: Step) -> None:
        try:
            with tracing.span(f"step {step.name}", job_uid=context.uid, stage=step.stage, chunk=chunk.number):
                await self._worker.run_step(context, chunk, step=step)
        except OmnialignError as error:
            error.metadata.setdefault("stage", step.stage)
            raise

    async def _check_starts(self, uid: str) -> None:
        """Raises FailedPrecondition (`JOB_ENDS_PROCESS`) for a job that was taken up too often without progress.

        Whatever it is that ends the process, recovery would repeat it for ever, and all other jobs with it.
        """
        if (starts := await self.jobs.count_start(uid)) > MAX_STARTS:
            message = (
                f"the job was taken up {starts - 1} times, and each time the process ended before it made progress; "
                "see the service's logs of those moments, and what the job read last"
            )
            metadata = {"starts": str(starts - 1)}
            raise FailedPrecondition(message, reason="JOB_ENDS_PROCESS", metadata=metadata)

    async def _succeed(self, uid: str) -> None:
        while True:  # the job may be paused between the two
            await self.gate.wait_while_paused(uid)
            await self._end_use(uid)
            job = await self.jobs.change(uid, functools.partial(_succeed, kind=self.kind))
            if job.state == self.kind.job.STATE_SUCCEEDED:
                self.progress.count_end(job)
                return

    async def _fail(self, uid: str, error: OmnialignError) -> None:
        try:
            await self.gate.wait_while_paused(uid)
        except (Stopped, NotFound):  # it has ended, or was refused and deleted just after its workflow was queued
            return
        context = await self.gate.context(uid)
        # Cancelled before the job is FAILED: a job that has ended leaves no training job behind.
        if self._program.has_external_work(context.job):
            await self._program.cancel_external_work(context)
        await self._end_use(uid)
        job = await self.jobs.change(uid, functools.partial(_fail, kind=self.kind, error=error))
        self.progress.count_end(job)

    async def _end_use(self, uid: str) -> None:
        # Before the job has ended, so that whoever waits for that can delete what it used.
        job, _ = await self.jobs.load(uid)
        await self._uses.end(job.name)


class RunningJob:
    """One running job as its program sees it (`kind.JobRun`)."""

    def __init__(self, runner: JobRunner, uid: str) -> None:
        self._runner, self._uid = runner, uid

    async def context(self) -> JobContext:
        """The job as it is now."""
        return await self._runner.gate.context(self._uid)

    async def step(self, name: str, body: Callable[[JobContext], Awaitable[str | int | None]]) -> str:
        """The result of `body`, which runs once the job is not paused; kept under `name`."""
        await self._runner.gate.wait_while_paused(self._uid)

        async def run() -> str | int | None:
            return await body(await self.context())

        return str(await self._runner.engine.step(name, run) or "")

    async def stage(self, name: str, body: StageBody) -> str:
        """A step that is a whole stage: it is timed, and its state shown. Skipped stages return an empty string."""
        kind, jobs, updater = self._runner.kind, self._runner.jobs, self._runner.updater

        async def run(context: JobContext) -> str | None:
            if stage_of(context.job, name).state == kind.stage.STATE_SKIPPED:
                return ""
            await jobs.change(self._uid, functools.partial(_enter, kind=kind, stage=name))
            try:
                with (
                    tracing.span(f"stage {name}", is_root=True, job_uid=self._uid, stage=name),
                    updater.clock(self._uid, name).running(),
                ):
                    result = await body(context)
            except OmnialignError as error:
                error.metadata.setdefault("stage", name)
                raise
            await updater.update(self._uid, name, functools.partial(_leave, kind=kind, stage=name))
            return result

        return await self.step(name, run)

    async def chunks(self, phase: Phase) -> None:
        """Plans the chunks of a phase, queues them, and waits until all are done. Raises what ended one of them."""
        engine = self._runner.engine

        async def plan(context: JobContext) -> str:
            count = await phase.plan(context)
            return f"{count}/{engine.group_size(count)}"

        # Kept with the plan, so that a replay queues the same; one of the release before queued each chunk by itself.
        planned, _, kept_size = (await self.step(f"plan_{phase.name}", plan)).partition("/")
        count, size = int(planned or 0), int(kept_size or 1)
        # Replayed from the start after a restart; chunks that are queued or done already are not queued again.
        await engine.submit_chunks(self._uid, phase.name, count, size=size)
        await self.step(phase.name, functools.partial(self._await_chunks, phase=phase, count=count, size=size))

    async def _await_chunks(self, context: JobContext, *, phase: Phase, count: int, size: int) -> None:
        """Returns when all chunks are done; raises what ended one of them, after the others were stopped."""
        runner, last = self._runner, phase.steps[-1].name
        looked_for_dead = time.monotonic()
        news = runner.notifier.news((self._uid, phase.name, last))
        try:
            while left := count - await runner.chunks.committed_count(self._uid, phase=phase.name, step=last):
                # Wakes when this process has done what was left, or seen a chunk fail; else it is time to look again:
                # soon if chunks commit here, and once a second for what other replicas do.
                await news.wait(left, soon_seconds=CHECK_SECONDS, timeout_seconds=LOOK_SECONDS)
                news = runner.notifier.news((self._uid, phase.name, last))
                await runner.check(context, phase)
                if time.monotonic() - looked_for_dead > DEAD_LOOK_SECONDS:
                    looked_for_dead = time.monotonic()
                    await self._check_dead(phase)
            runner.chunks.recount(self._uid)
            await runner.progress.flush(self._uid)
            await runner.check(context, phase)
        except OmnialignError:
            await runner.engine.cancel_chunks(self._uid, phase.name, count, size=size)
            await runner.progress.flush(self._uid)
            raise

    async def _check_dead(self, phase: Phase) -> None:
        dead = await self._runner.engine.dead_chunks(self._uid, phase.name)
        if dead:
            raise Internal(f"the workflow engine gave up on '{dead[0]}'; the log has the reason", reason="CHUNK_FAILED")


def _begin(job: Job, *, kind: JobKind) -> str | None:
    if job.state != kind.job.STATE_QUEUED:
        return None
    job.state = kind.job.STATE_RUNNING
    return "Started."


def _enter(job: Job, *, kind: JobKind, stage: str) -> str | None:
    status = stage_of(job, stage)
    if status.state != kind.stage.STATE_PENDING:
        return None
    status.state = kind.stage.STATE_RUNNING
    return f"{stage} begins."


def _leave(job: Job, *, kind: JobKind, stage: str) -> str:
    stage_of(job, stage).state = kind.stage.STATE_DONE
    return f"{stage} is done."


def _succeed(job: Job, *, kind: JobKind) -> str | None:
    if job.state != kind.job.STATE_RUNNING:
        return None
    job.state = kind.job.STATE_SUCCEEDED
    return "Succeeded."


def _fail(job: Job, *, kind: JobKind, error: OmnialignError) -> str | None:
    if job.state in kind.ended or job.state == kind.job.STATE_CANCELLING:
        return None
    job.state = kind.job.STATE_FAILED
    job.error.CopyFrom(to_status(error))
    running = [s for s in job.stages if s.state == kind.stage.STATE_RUNNING]
    blamed = [s for s in job.stages if s.stage == error.metadata.get("stage")]
    for status in blamed or running[:1]:
        status.state = kind.stage.STATE_FAILED
    return f"Failed: {error.message}"
