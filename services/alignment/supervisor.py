"""Looks after the jobs of a replica: starts what was accepted, ends what is cancelled, takes over from the dead."""

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable

from omnialign.errors import Internal, OmnialignError, Unavailable, to_status
from services.alignment.config import AlignmentConfig
from services.alignment.durable import Engine
from services.alignment.metrics import Metrics
from services.alignment.patience import Patience
from services.alignment.pipeline import Pipeline
from services.alignment.stages import Stages
from services.alignment.store import ENDED, Job, Store

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0
ROUND_SECONDS = 30.0
TOO_LONG = f"it took longer than {ROUND_SECONDS:.0f} seconds"
NEVER = float("-inf")
GONE_SECONDS = 30 * 86400.0
"""A heartbeat so old was set by a replica that took its leave."""


class Supervisor:
    """One per replica. `run` does its rounds; `cancel` ends a job in the background."""

    def __init__(
        self,
        config: AlignmentConfig,
        *,
        store: Store,
        engine: Engine,
        pipeline: Pipeline,
        stages: Stages,
        patience: Patience,
        metrics: Metrics,
    ) -> None:
        self._config, self._store, self._engine, self._patience = config, store, engine, patience
        self._pipeline, self._stages, self._metrics = pipeline, stages, metrics
        self._patient = store.patient(budget_seconds=config.retry_budget_seconds)
        self._cancelling: dict[str, asyncio.Task[None]] = {}
        self._beating_since = self._beaten_at = NEVER

    async def arrive(self) -> None:
        """Says that this replica lives, before it takes work up."""
        await self._beat()

    async def prepare(self) -> None:
        """Queues the workflows of jobs that were accepted by a process that died before it could."""
        for uid, state in await self._store.unfinished():
            if state != Job.STATE_CANCELLING:
                await self._engine.submit_job(uid)

    async def run(self) -> None:
        """Says every few seconds that this replica lives, and does a round every second, until cancelled."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._repeat(self._beat, seconds=self._config.heartbeat_seconds))
            group.create_task(self._repeat(self._look, seconds=LOOK_SECONDS))
            group.create_task(self._repeat(self._take_care, seconds=self._config.heartbeat_seconds))

    async def _repeat(self, work: Callable[[], Awaitable[None]], *, seconds: float) -> None:
        while True:
            try:
                async with asyncio.timeout(ROUND_SECONDS):
                    await work()
            except (Unavailable, TimeoutError) as error:
                logger.warning("a round of the supervisor was left out: %s", str(error) or TOO_LONG)
            except Exception:
                logger.exception("a round of the supervisor failed")
            await asyncio.sleep(seconds)

    def cancel(self, uid: str) -> None:
        """Begins to end a job that is CANCELLING; does nothing when that has begun."""
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

    async def leave(self) -> None:
        """Says that this replica is gone, so that the others take its work over at once."""
        if self._beaten_at == NEVER:
            return
        try:
            await self._store.beat(self._config.executor_id, at_ms=0)
        except OmnialignError as error:
            logger.info("the others will notice by silence that this replica is gone: %s", error)

    async def _end(self, uid: str) -> None:
        try:
            await self._engine.cancel(uid)
            await self._stages.cancel_training(await self._pipeline.work(uid))
        except OmnialignError as error:
            logger.warning("the training jobs of %s could not all be cancelled: %s", uid, error)
        self._metrics.ended((await self._patient.change(uid, _cancelled)).state)

    async def _look(self) -> None:
        num_changes = self._store.news.num_changes
        unfinished = await self._store.unfinished()
        self._metrics.show_jobs([state for _, state in unfinished])
        self._metrics.show_waiting(self._patience.away({uid for uid, _ in unfinished}))
        if num_changes == self._store.news.num_changes:  # else what was read may be old already
            self._take_over_states(dict(unfinished))
        running = self._engine.running()
        for uid, state in unfinished:
            if state == Job.STATE_CANCELLING:
                self.cancel(uid)
                running.discard(uid)
        for uid in running - {uid for uid, _ in unfinished}:
            await self._engine.interrupt(uid)  # ended by another replica

    def _take_over_states(self, unfinished: dict[str, int]) -> None:
        """Learns what other replicas changed."""
        states = self._store.news.states
        for uid in list(states):
            if uid in unfinished:
                states[uid] = unfinished[uid]
            else:
                self._pipeline.forget(uid)

    async def _beat(self) -> None:
        """Says that this replica lives, and remembers since when it has done so without a gap."""
        await self._store.beat(self._config.executor_id)
        now = time.monotonic()
        if now - self._beaten_at > max(self._config.silence_seconds / 2, 2 * self._config.heartbeat_seconds):
            self._beating_since = now
        self._beaten_at = now

    async def _take_care(self) -> None:
        """Takes over from replicas that are gone, and sees to workflows that were never queued, or died."""
        if time.monotonic() - self._beaten_at > 2 * self._config.heartbeat_seconds:
            return  # the database is away; the engine would wait for it
        self._metrics.show_queue(await self._engine.queued())
        for executor_id in await self._silent():
            logger.warning("replica %s is gone: its work is taken over", executor_id)
            await self._engine.recover(executor_id)
            await self._store.forget(executor_id)
        for uid, state in await self._store.unfinished():
            if state == Job.STATE_QUEUED:  # accepted by a replica that died before it could queue it; or queued already
                await self._engine.submit_job(uid)
            if state != Job.STATE_CANCELLING and await self._engine.is_dead(uid):
                self._metrics.ended((await self._store.change(uid, _died)).state)

    async def _silent(self) -> list[str]:
        """Replicas that are gone.

        After a time without the database every replica is silent in its records. So the others are judged only by one
        that has been heard of all the time itself, except for those that took their leave.
        """
        seconds = self._config.silence_seconds
        if time.monotonic() - self._beating_since < seconds:
            seconds = GONE_SECONDS
        return [name for name in await self._store.silent(seconds=seconds) if name != self._config.executor_id]


def _cancelled(job: Job) -> str | None:
    if job.state != Job.STATE_CANCELLING:
        return None
    job.state = Job.STATE_CANCELLED
    return "Cancelled."


def _died(job: Job) -> str | None:
    if job.state in ENDED or job.state == Job.STATE_CANCELLING:
        return None
    job.state = Job.STATE_FAILED
    fault = Internal("the workflow of the job ended by a fault; the log has the reason", reason="WORKFLOW_FAILED")
    job.error.CopyFrom(to_status(fault))
    return f"Failed: {fault.message}"
