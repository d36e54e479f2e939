"""Looks after the jobs of a replica: starts what was accepted, ends what is cancelled, takes over from the dead."""

import asyncio
import logging

from omnialign.errors import Internal, OmnialignError, to_status
from services.alignment.config import AlignmentConfig
from services.alignment.durable import Engine
from services.alignment.metrics import Metrics
from services.alignment.patience import Patience
from services.alignment.pipeline import Pipeline
from services.alignment.stages import Stages
from services.alignment.store import ENDED, Job, Store

logger = logging.getLogger(__name__)

LOOK_SECONDS = 1.0


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
        self._cancelling: dict[str, asyncio.Task[None]] = {}

    async def prepare(self) -> None:
        """Queues the workflows of jobs that were accepted by a process that died before it could."""
        await self._store.beat(self._config.executor_id)
        for uid, state in await self._store.unfinished():
            if state != Job.STATE_CANCELLING:
                await self._engine.submit_job(uid)

    async def run(self) -> None:
        """Does a round every second, until cancelled."""
        rounds = 0
        beats = max(1, round(self._config.heartbeat_seconds / LOOK_SECONDS))
        while True:
            try:
                await self._look()
                if rounds % beats == 0:
                    await self._beat()
            except Exception:
                logger.exception("a round of the supervisor failed")
            rounds += 1
            await asyncio.sleep(LOOK_SECONDS)

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

    async def _end(self, uid: str) -> None:
        try:
            await self._engine.cancel(uid)
            await self._stages.cancel_training(await self._pipeline.work(uid))
        except OmnialignError as error:
            logger.warning("the training jobs of %s could not all be cancelled: %s", uid, error)
        await self._store.change(uid, _cancelled)

    async def _look(self) -> None:
        num_changes = self._store.num_changes
        unfinished = await self._store.unfinished()
        self._metrics.show_jobs([state for _, state in unfinished])
        self._metrics.show_waiting(self._patience.away({uid for uid, _ in unfinished}))
        if num_changes == self._store.num_changes:  # else what was read may be old already
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
        states = self._store.states
        for uid in list(states):
            if uid in unfinished:
                states[uid] = unfinished[uid]
            else:
                del states[uid]

    async def _beat(self) -> None:
        await self._store.beat(self._config.executor_id)
        self._metrics.show_queue(await self._engine.queued())
        for executor_id in await self._store.silent(seconds=self._config.silence_seconds):
            if executor_id != self._config.executor_id:
                logger.warning("replica %s is silent: its work is taken over", executor_id)
                await self._engine.recover(executor_id)
                await self._store.forget(executor_id)
        for uid, state in await self._store.unfinished():
            if state != Job.STATE_CANCELLING and await self._engine.is_dead(uid):
                await self._store.change(uid, _died)


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
