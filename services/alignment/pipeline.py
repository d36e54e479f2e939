"""The workflows of a job and of its chunks: which stage follows which, what pauses, what fails, what is counted.

Code between the steps runs again after a restart, so it decides only by what steps returned. Steps may run again too,
when the process died before their result was kept; each one is written for that.
"""

import asyncio
import functools
import logging
import time
from collections.abc import Awaitable, Callable

from omnialign.errors import Internal, OmnialignError, to_status
from omnialign.v1 import alignment_service_pb2
from services.alignment.answers import Evaluation
from services.alignment.chunks import Chunk, ChunkWorker, Step
from services.alignment.durable import Engine
from services.alignment.job import Work, is_binary, project_of, stage_of
from services.alignment.loop import Loop
from services.alignment.peers import Directory
from services.alignment.progress import EVALUATE, LOOP, Progress, check_quarantine
from services.alignment.stages import Stages
from services.alignment.store import ENDED, Change, Job, Store
from services.runtime import tracing

StageStatus = alignment_service_pb2.StageStatus

LOOK_SECONDS = 1.0
DEAD_LOOK_SECONDS = 5.0
JOIN_SECONDS = 0.1
"""Changes that come within this time are looked at together."""

logger = logging.getLogger(__name__)


class Stopped(Exception):
    """The job is being cancelled or has ended: there is nothing more to do."""


class Pipeline:
    """Runs the workflows. What they do in their steps is in `Stages` and `ChunkWorker`."""

    def __init__(
        self,
        store: Store,
        *,
        engine: Engine,
        stages: Stages,
        worker: ChunkWorker,
        loop: Loop,
        evaluation: Evaluation,
        progress: Progress,
        directory: Directory,
    ) -> None:
        self._store, self._engine, self._stages = store, engine, stages
        self._worker, self._progress, self._directory = worker, progress, directory
        self._steps: dict[str, tuple[Step, ...]] = {LOOP: loop.steps, EVALUATE: evaluation.steps}

    # ---- the job ----

    async def run_job(self, uid: str) -> None:
        """Works on a job until it has ended."""
        try:
            self._progress.lead(uid)
            await self._store.change(uid, _begin)
            await self._run_stages(uid)
        except Stopped:
            return
        except OmnialignError as error:
            await self._fail(uid, error)
        except Exception as error:
            logger.exception("job %s failed by a fault of ours", uid)
            await self._fail(uid, Internal(f"{type(error).__name__}: {error}", reason="PIPELINE_FAILED"))
        finally:
            self.forget(uid)

    async def _run_stages(self, uid: str) -> None:
        stages, binary = self._stages, is_binary((await self.work(uid)).plan)
        await self._stage(uid, "preflight", stages.preflight)
        await self._stage(uid, "feedback_modeling", stages.feedback_modeling)
        verified = ""
        if not binary:
            await self._chunks(uid, LOOP, stages.plan_loop)
            verified = await self._step(uid, "close_loop", stages.close_loop)
        version = await self._stage(uid, "pair", functools.partial(stages.pair, verified=verified))
        await self._stage(uid, "optimize", functools.partial(stages.optimize, pairs_version=version))
        await self._chunks(uid, EVALUATE, stages.plan_evaluation)
        await self._step(uid, "close_evaluation", stages.close_evaluation)
        await self._stage(uid, "report", stages.report)
        while True:  # a pause may come between the two
            await self.wait_while_paused(uid)
            job = await self._store.change(uid, _succeed)
            if job.state == Job.STATE_SUCCEEDED:
                self._progress.count_end(job)
                return

    async def _stage(self, uid: str, stage: str, body: Callable[[Work], Awaitable[str | None]]) -> str:
        """Runs a stage that is one step; a stage that the plan leaves out is not run."""

        async def run(work: Work) -> str | None:
            job, _ = await self._store.load(uid)
            if stage_of(job, stage).state == StageStatus.STATE_SKIPPED:
                return ""
            await self._store.change(uid, functools.partial(_enter, stage=stage))
            try:
                with (
                    tracing.span(f"stage {stage}", is_root=True, job_uid=uid, stage=stage),
                    self._progress.clock(uid, stage).running(),
                ):
                    result = await body(work)
            except OmnialignError as error:
                error.metadata.setdefault("stage", stage)
                raise
            await self.report(uid, stage, functools.partial(_leave, stage=stage))
            return result

        return await self._step(uid, stage, run)

    async def _step(self, uid: str, name: str, body: Callable[[Work], Awaitable[str | int | None]]) -> str:
        """Runs a step of the job once the job is not paused."""
        await self.wait_while_paused(uid)

        async def run() -> str | int | None:
            return await body(await self.work(uid))

        return str(await self._engine.step(name, run) or "")

    async def _chunks(self, uid: str, phase: str, plan: Callable[[Work], Awaitable[int]]) -> None:
        """Plans the chunks of a phase, queues them, and waits until all are through."""
        count = int(await self._step(uid, f"plan_{phase}", plan) or 0)
        for number in range(count):
            await self._engine.submit_chunk(uid, phase, number)
        await self._step(uid, phase, functools.partial(self._await_chunks, phase=phase, count=count))

    async def _await_chunks(self, work: Work, *, phase: str, count: int) -> None:
        """Returns when all chunks are through; raises what ended one of them, after the others were stopped."""
        last = self._steps[phase][-1].name
        looked = time.monotonic()
        try:
            while await self._store.done_count(work.uid, phase=phase, step=last) < count:
                await self._store.news.stepped.wait(timeout_seconds=LOOK_SECONDS)
                await asyncio.sleep(JOIN_SECONDS)
                await self._check(work, phase)
                if time.monotonic() - looked > DEAD_LOOK_SECONDS:
                    looked = time.monotonic()
                    await self._check_dead(work, phase)
            await self._progress.flush(work.uid)
            await self._check(work, phase)
        except OmnialignError:
            await self._engine.cancel_chunks(work.uid, phase, range(count))
            await self._progress.flush(work.uid)
            raise

    async def _check(self, work: Work, phase: str) -> None:
        failure = await self._store.failure(work.uid, phase=phase)
        if failure is not None:
            raise failure
        job, plan = await self._store.load(work.uid)
        if any(status.quarantined for status in job.stages):
            check_quarantine(job, await self._store.totals(work.uid), limit=plan.max_quarantine_fraction)

    async def _check_dead(self, work: Work, phase: str) -> None:
        dead = await self._engine.dead_chunks(work.uid, phase)
        if dead:
            raise Internal(f"the workflow '{dead[0]}' ended by a fault", reason="CHUNK_FAILED")

    async def _fail(self, uid: str, error: OmnialignError) -> None:
        try:
            await self.wait_while_paused(uid)
        except Stopped:
            return
        work = await self.work(uid)
        job, _ = await self._store.load(uid)
        if any(s.training_jobs and s.state == StageStatus.STATE_RUNNING for s in job.stages):
            await self._stages.cancel_training(work)
        self._progress.count_end(await self._store.change(uid, functools.partial(_fail, error=error)))

    # ---- a chunk ----

    async def run_chunk(self, uid: str, phase: str, number: int) -> None:
        """Works on one chunk until it is through, the job is stopped, or it fails, which ends the job.

        The ledger in the job database says which steps are behind it; so the steps need no second one in the engine.
        """
        steps = self._steps[phase]
        try:
            await self.wait_while_paused(uid)
            work = await self.work(uid)
            ledger = await self._store.begin_chunk(uid, phase=phase, number=number, steps=[s.name for s in steps])
            chunk = Chunk(phase, number, ledger.record_ids, ledger.is_repeated)
            with tracing.span(f"chunk {phase}", is_root=True, job_uid=uid, chunk=number, records=len(chunk.ids)):
                for step in steps:
                    if step.name not in ledger.done:
                        await self.wait_while_paused(uid)
                        await self._work(work, chunk, step)
        except Stopped:
            return
        except OmnialignError as error:
            await self._store.put_failure(uid, phase=phase, number=number, error=error)
        except Exception as error:
            logger.exception("chunk %s of job %s failed by a fault of ours", number, uid)
            fault = Internal(f"{type(error).__name__}: {error}", reason="CHUNK_FAILED")
            await self._store.put_failure(uid, phase=phase, number=number, error=fault)

    async def _work(self, work: Work, chunk: Chunk, step: Step) -> None:
        try:
            with tracing.span(f"step {step.name}", job_uid=work.uid, stage=step.stage, chunk=chunk.number):
                await self._worker.work(work, chunk, step=step)
        except OmnialignError as error:
            error.metadata.setdefault("stage", step.stage)
            raise

    # ---- parts ----

    def forget(self, uid: str) -> None:
        """Drops what is kept of a job in memory."""
        self._progress.forget(uid)
        self._store.news.states.pop(uid, None)

    async def work(self, uid: str) -> Work:
        """The job as its parts need it."""
        job, plan = await self._store.load(uid)
        peers = await self._directory.of(project_of(job.name))
        return Work(uid, job.name, plan, job.models, peers)

    async def wait_while_paused(self, uid: str) -> None:
        """Returns when the job may go on; raises Stopped when it may not."""
        states = self._store.news.states
        if uid not in states:
            states[uid] = await self._store.state(uid)
        while (state := states[uid]) == Job.STATE_PAUSED:
            await self._store.news.changed.wait(timeout_seconds=LOOK_SECONDS)
            states[uid] = await self._store.state(uid)
        if state in ENDED or state == Job.STATE_CANCELLING:
            raise Stopped

    async def report(self, uid: str, stage: str, change: Change) -> None:
        """Changes a job, with the time that the stage took since the last change."""
        spent_ms = self._progress.clock(uid, stage).take_ms()

        def timed(job: Job) -> str | None:
            message = change(job)
            status = stage_of(job, stage)
            status.elapsed.FromMilliseconds(status.elapsed.ToMilliseconds() + spent_ms)
            return message

        await self._store.change(uid, timed)

    async def announce(self, uid: str, service: str, problem: str) -> None:
        """Tells the watchers of a job that it waits for a service, or no longer."""

        def change(job: Job) -> str | None:
            if job.state in ENDED:
                return None
            return f"Waiting for the {service} service: {problem}" if problem else f"The {service} service answers."

        await self._store.change(uid, change)


def _begin(job: Job) -> str | None:
    if job.state != Job.STATE_QUEUED:
        return None
    job.state = Job.STATE_RUNNING
    return "Started."


def _enter(job: Job, *, stage: str) -> str | None:
    status = stage_of(job, stage)
    if status.state != StageStatus.STATE_PENDING:
        return None
    status.state = StageStatus.STATE_RUNNING
    return f"{stage} begins."


def _leave(job: Job, *, stage: str) -> str:
    stage_of(job, stage).state = StageStatus.STATE_DONE
    return f"{stage} is done."


def _succeed(job: Job) -> str | None:
    if job.state != Job.STATE_RUNNING:
        return None
    job.state = Job.STATE_SUCCEEDED
    return "Succeeded."


def _fail(job: Job, *, error: OmnialignError) -> str | None:
    if job.state in ENDED or job.state == Job.STATE_CANCELLING:
        return None
    job.state = Job.STATE_FAILED
    job.error.CopyFrom(to_status(error))
    running = [s for s in job.stages if s.state == StageStatus.STATE_RUNNING]
    blamed = [s for s in job.stages if s.stage == error.metadata.get("stage")]
    for status in blamed or running[:1]:
        status.state = StageStatus.STATE_FAILED
    return f"Failed: {error.message}"
