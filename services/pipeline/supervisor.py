"""Looks after the jobs of a replica: queues what was accepted, ends what is cancelled, takes over from the dead."""

import asyncio
import functools
import logging
from collections.abc import Awaitable, Callable

from omnialign.errors import Internal, OmnialignError, to_status
from services.pipeline.config import PipelineConfig
from services.pipeline.job_store import JobStore
from services.pipeline.kept_answers import KeptAnswers
from services.pipeline.kind import Job, JobKind, JobProgram
from services.pipeline.metrics import PipelineMetrics
from services.pipeline.notifier import Notifier
from services.pipeline.replicas import ReplicaMonitor
from services.pipeline.runner import JobRunner
from services.pipeline.service_calls import ServiceRetrier
from services.pipeline.workflow_engine import WorkflowEngine
from services.runtime.logs import Recurring
from services.runtime.uses import Uses

LOOK_SECONDS = 1.0
PRUNE_SECONDS = 3600.0
ROUND_SECONDS = 30.0
TOO_LONG = f"it took longer than {ROUND_SECONDS:.0f} seconds"

logger = logging.getLogger(__name__)


class Supervisor:
    """One per replica and kind. `run` does its rounds; `cancel` ends a job in the background.

    `impatient` is a store that fails at once while the database is away: a round that cannot be done is left out.
    `patient` is the same store for what must be written in the end.
    """

    def __init__(
        self,
        config: PipelineConfig,
        program: JobProgram,
        *,
        kind: JobKind,
        impatient: JobStore,
        patient: JobStore,
        engine: WorkflowEngine,
        replicas: ReplicaMonitor,
        runner: JobRunner,
        retrier: ServiceRetrier,
        notifier: Notifier,
        metrics: PipelineMetrics,
        uses: Uses,
        kept: KeptAnswers | None = None,
    ) -> None:
        self._config, self._program, self._kind = config, program, kind
        self._jobs, self._patient = impatient, patient
        self._engine, self._replicas, self._runner = engine, replicas, runner
        self._retrier, self._notifier, self._metrics = retrier, notifier, metrics
        self._uses, self._kept = uses, kept
        self._cancelling: dict[str, asyncio.Task[None]] = {}
        self._rounds = Recurring(logger)

    async def prepare(self) -> None:
        """Queues the workflows of jobs that were accepted by a process that died before it could."""
        for uid, state in await self._jobs.unfinished():
            if state != self._kind.job.STATE_CANCELLING:
                await self._engine.submit_job(uid)

    async def run(self) -> None:
        """Does the rounds until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._repeat(self._replicas.beat, seconds=self._config.heartbeat_seconds))
            group.create_task(self._repeat(self._look, seconds=LOOK_SECONDS))
            group.create_task(self._repeat(self.take_care, seconds=self._config.heartbeat_seconds))
            if self._kept is not None:
                group.create_task(self._repeat(self._kept.prune, seconds=PRUNE_SECONDS))

    async def _repeat(self, work: Callable[[], Awaitable[None]], *, seconds: float) -> None:
        what = f"a round of the supervisor ({work.__name__.strip('_')})"
        while True:
            try:
                # Bounded, because a database that accepts connections but never answers would end the rounds for good.
                async with asyncio.timeout(ROUND_SECONDS):
                    await work()
            except TimeoutError:
                self._rounds.failed(what, TimeoutError(TOO_LONG))
            except Exception as error:
                self._rounds.failed(what, error)
            else:
                self._rounds.succeeded(what)
            await asyncio.sleep(seconds)

    def cancel(self, uid: str) -> None:
        """Begins to end a job that is CANCELLING; does nothing if that has begun already."""
        if uid not in self._cancelling:
            task = asyncio.create_task(self._end(uid), name=f"cancel {uid}")
            self._cancelling[uid] = task
            task.add_done_callback(lambda _: self._cancelling.pop(uid, None))

    async def close(self) -> None:
        """Stops the background work; jobs that are CANCELLING are ended at the next start."""
        tasks = list(self._cancelling.values())
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def take_care(self) -> None:
        """Takes over from replicas that are gone, and sees to workflows that were never queued, or died."""
        if not self._replicas.is_current:
            return  # the database is away, and the engine would wait for it
        self._metrics.show_queue(*await self._engine.queued())
        await self._replicas.take_over()
        for uid, state in await self._jobs.unfinished():
            if state == self._kind.job.STATE_QUEUED:
                # Either it is queued, and this changes nothing, or its replica died before it could queue it.
                await self._engine.submit_job(uid)
            if state != self._kind.job.STATE_CANCELLING and await self._engine.is_dead(uid):
                job = await self._jobs.change(uid, functools.partial(_died, kind=self._kind))
                self._metrics.count_end(job.state)

    async def _end(self, uid: str) -> None:
        # The workflows end first, so that none of them starts another training job meanwhile.
        try:
            await self._engine.cancel(uid)
            context = await self._runner.gate.context(uid)
            await self._program.cancel_external_work(context)
            await self._uses.end(context.name)
        except OmnialignError as error:
            logger.warning("what other services do for %s could not all be cancelled: %s", uid, error)
        job = await self._patient.change(uid, functools.partial(_cancelled, kind=self._kind))
        self._metrics.count_end(job.state)

    async def _look(self) -> None:
        """Learns what other replicas did to jobs, and acts on it here."""
        num_changes = self._notifier.num_changes
        unfinished = await self._jobs.unfinished()
        self._metrics.show_jobs([state for _, state in unfinished])
        self._metrics.show_waiting(self._retrier.waiting_jobs({uid for uid, _ in unfinished}))
        if num_changes == self._notifier.num_changes:  # otherwise what was read may be out of date by now
            self._take_over_states(dict(unfinished))
        running = self._engine.running()
        for uid, state in unfinished:
            if state == self._kind.job.STATE_CANCELLING:
                self.cancel(uid)
                running.discard(uid)
        # What runs here but is not unfinished was ended by another replica.
        for uid in running - {uid for uid, _ in unfinished}:
            await self._engine.interrupt(uid)

    def _take_over_states(self, unfinished: dict[str, int]) -> None:
        states = self._notifier.states
        for uid in list(states):
            if uid in unfinished:
                states[uid] = unfinished[uid]
            else:
                self._runner.forget(uid)


def _cancelled(job: Job, *, kind: JobKind) -> str | None:
    if job.state != kind.job.STATE_CANCELLING:
        return None
    job.state = kind.job.STATE_CANCELLED
    return "Cancelled."


def _died(job: Job, *, kind: JobKind) -> str | None:
    if job.state in kind.ended or job.state == kind.job.STATE_CANCELLING:
        return None
    job.state = kind.job.STATE_FAILED
    failure = Internal("the workflow engine gave up on the job; the log has the reason", reason="WORKFLOW_FAILED")
    job.error.CopyFrom(to_status(failure))
    return f"Failed: {failure.message}"
