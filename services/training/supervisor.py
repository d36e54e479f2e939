"""Runs queued jobs and follows them to their end, across restarts of the service.

One task per job that is launched: it looks at the job through the launcher, step by step, and writes what it finds.
The store is written at every turn, so a service that is killed finds at its next start what was going on. What is
true of a job comes from two sources, and both must agree: what the launcher sees, and what the job says of itself.
"""

import asyncio
import logging
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from omnialign.errors import Internal, OmnialignError, Unavailable, to_status
from omnialign.v1.training_service_pb2 import TrainingJob
from services.training.config import TrainingConfig
from services.training.ending import heartbeat_lost, may_restart, not_delivered
from services.training.jobs import Changes
from services.training.launcher import Handle, Held, Launcher, Observation, Phase
from services.training.metrics import Metrics
from services.training.peers import Peers
from services.training.store import ENDED, Entry, Store, now
from services.training.tokens import MakeToken, token_digest
from services.training.transitions import note_running, settle

log = logging.getLogger(__name__)

SCHEDULE_SECONDS = 1.0
SILENCE_SHOWN_SECONDS = 25.0
"""Silence of a running job that is shown as its condition; it is stopped only after `heartbeat_timeout_seconds`."""
HELD_SECONDS = 5.0
"""How often something that is held up is tried again."""


@dataclass
class Memory:
    """What a follower remembers between two looks."""

    running_since: float | None = None
    verdict: Observation | None = None
    """How the attempt failed, once that is decided: ending it may take several looks, and changes what is seen."""
    tail: list[str] = field(default_factory=list)


class Supervisor:
    """Owns the course of all jobs."""

    def __init__(
        self,
        config: TrainingConfig,
        *,
        store: Store,
        changes: Changes,
        launcher: Launcher,
        peers: Peers,
        make_token: MakeToken,
        metrics: Metrics,
    ) -> None:
        self._config, self._store, self._changes = config, store, changes
        self._launcher, self._peers, self._make_token = launcher, peers, make_token
        self._metrics = metrics
        self._followers: dict[str, asyncio.Task[None]] = {}
        self._loop: asyncio.Task[None] | None = None
        self._forgot = False

    async def start(self) -> None:
        """Begins to schedule; jobs left by an earlier service are taken up first."""
        await self._launcher.open()
        self._loop = asyncio.create_task(self._schedule_for_ever(), name="training-supervisor")

    async def close(self) -> None:
        """Stops following. No job changes its state."""
        tasks = [*self._followers.values(), *([self._loop] if self._loop else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self._launcher.close()

    async def _schedule_for_ever(self) -> None:
        while True:
            change = self._changes.subscribe()
            try:
                await self._schedule()
            except OmnialignError as error:
                log.warning("scheduling failed and will be tried again: %s", error)
            except Exception:
                log.exception("scheduling failed in an unforeseen way and will be tried again")
            await _within(change, SCHEDULE_SECONDS)

    async def _schedule(self) -> None:
        """Gives every job that should have a follower one, oldest first."""
        for name in [name for name, task in self._followers.items() if task.done()]:
            del self._followers[name]
        unfinished = await self._store.unfinished()
        self._metrics.show([entry.job for entry in unfinished])
        if not self._forgot:
            await self._forget(unfinished)
        for entry in unfinished:
            name, waiting = entry.job.name, entry.job.state == TrainingJob.STATE_QUEUED and not entry.pid
            if name in self._followers or (waiting and len(self._followers) >= self._config.max_running):
                continue
            self._followers[name] = asyncio.create_task(self._follow(name), name=f"follow {name}")

    async def _forget(self, unfinished: list[Entry]) -> None:
        """Ends, once, what an earlier service left running for jobs that have ended."""
        try:
            await self._launcher.forget([entry.job.uid for entry in unfinished])
            self._forgot = True
        except Held as held:
            log.warning("what earlier jobs left could not be looked for yet: %s", held)

    async def _follow(self, name: str) -> None:
        """Brings one job to its end."""
        memory = Memory()
        try:
            while True:
                change, pause_seconds = self._changes.subscribe(), self._config.poll_seconds
                try:
                    if await self._step(name, memory):
                        return
                except Held as held:
                    await self._show(name, held.reason, held.message)
                    pause_seconds = HELD_SECONDS
                except Unavailable as error:
                    log.warning("%s cannot be looked at and will be again: %s", name, error)
                    pause_seconds = HELD_SECONDS
                await _within(change, pause_seconds)
        except OmnialignError as error:
            await self._settle(name, None, TrainingJob.STATE_FAILED, error=error)
        except Exception as error:
            log.exception("following %s failed", name)
            await self._settle(name, None, TrainingJob.STATE_FAILED, error=Internal(f"the service failed: {error!r}"))
        finally:
            self._changes.announce()

    async def _step(self, name: str, memory: Memory) -> bool:
        """Looks at a job once and does what is due; True when there is nothing left to do."""
        entry = await self._store.get(name)
        job, handle = entry.job, _handle(entry)
        if job.state in ENDED:
            await self._after_delivery(job, handle)
            return True
        if job.state == TrainingJob.STATE_CANCELLING:
            await self._cancel(job, handle)
            return True
        seen = memory.verdict or await self._launcher.observe(job, handle)
        if seen.phase is Phase.ABSENT:
            await self._begin(job)
        elif seen.phase is Phase.SUCCEEDED and seen.model is not None:
            await self._register(job, handle, seen.model)
            return True
        elif seen.phase is Phase.SUCCEEDED:
            # The delivery settles the job before the program can end, so what the store says now is the last word.
            if (await self._store.get(name)).job.state not in ENDED:
                memory.verdict = Observation(Phase.FAILED, error=not_delivered())
        elif seen.phase is Phase.FAILED:
            memory.verdict = seen
            return await self._end_attempt(job, handle, memory)
        else:
            await self._watch_over(job, seen, memory)
        return False

    async def _begin(self, job: TrainingJob) -> None:
        """Starts the next attempt. Everything before the launcher's answer may be repeated by the next service."""
        token = self._make_token(job, self._launcher.longest_seconds)
        await self._store.update(job.name, lambda e: setattr(e, "token_digest", token_digest(token)), event=False)
        attempt = job.attempt_count + 1
        started = await self._launcher.start(job, attempt=attempt, token=token)

        def begun(entry: Entry) -> None:
            entry.pid, entry.pid_start_time = started.handle.pid, started.handle.start_time
            entry.token_digest = started.token_digest
            entry.job.attempt_count = attempt
            entry.job.ClearField("condition")

        entry = await self._store.update(job.name, begun)
        if attempt > 1:
            self._metrics.started(entry.job)
        self._changes.announce()

    async def _watch_over(self, job: TrainingJob, seen: Observation, memory: Memory) -> None:
        """Notes how an attempt fares that has not ended; one that is silent for too long has failed."""
        reason, message = seen.reason, seen.message
        if seen.phase is not Phase.RUNNING:
            memory.running_since = None
        else:
            await self._note_running(job)
            memory.running_since = memory.running_since or time.time()
            silent_seconds = time.time() - max(_spoke_at(job), memory.running_since)
            if silent_seconds > self._config.heartbeat_timeout_seconds:
                error = heartbeat_lost(self._config.heartbeat_timeout_seconds)
                memory.verdict = Observation(Phase.FAILED, error=error)
            if silent_seconds > SILENCE_SHOWN_SECONDS and not reason:
                reason = "HEARTBEAT_LOST"
                message = (
                    "the job runs but has fallen silent; it will be stopped after "
                    f"{self._config.heartbeat_timeout_seconds:g} s of silence"
                )
        if (job.condition.reason, job.condition.message) != (reason, message):
            await self._show(job.name, reason, message)

    async def _note_running(self, job: TrainingJob) -> None:
        if job.state != TrainingJob.STATE_QUEUED and job.HasField("start_time"):
            return
        entry = await self._store.update(job.name, note_running)
        if entry.job.attempt_count == 1 and entry.job.state == TrainingJob.STATE_RUNNING:
            self._metrics.started(entry.job)
        self._changes.announce()

    async def _cancel(self, job: TrainingJob, handle: Handle | None) -> None:
        """Ends everything and only then says so. A model that was finished meanwhile is kept."""
        tail = await self._tail(job, handle)
        await self._launcher.stop(job, handle)
        seen = await self._launcher.observe(job, handle)
        if handle is not None and seen.phase is Phase.SUCCEEDED and seen.model is not None:
            await self._register(job, handle, seen.model)
        else:
            await self._settle(job.name, handle, TrainingJob.STATE_CANCELLED, tail=tail)

    async def _end_attempt(self, job: TrainingJob, handle: Handle | None, memory: Memory) -> bool:
        """Ends an attempt that failed; True when the job has failed for good."""
        verdict = memory.verdict or Observation(Phase.FAILED)
        error = verdict.error or Internal("the attempt failed and left no word", reason="PROCESS_DIED")
        memory.tail = memory.tail or await self._tail(job, handle)
        await self._launcher.tidy(job, handle)
        tail, memory.tail, memory.verdict, memory.running_since = memory.tail, [], None, None
        entry = await self._store.update(job.name, lambda e: _note_end(e, crashed=verdict.crashed), event=False)
        if entry.job.state == TrainingJob.STATE_CANCELLING:
            await self._settle(job.name, handle, TrainingJob.STATE_CANCELLED, tail=tail)
        elif may_restart(error, crashes=entry.num_crashes, allowed=entry.job.spec.max_restarts):
            log.warning("%s ended (%s) and is started again from its newest checkpoint", job.name, error)
            return False
        else:
            await self._settle(job.name, handle, TrainingJob.STATE_FAILED, error=error, tail=tail)
        return True

    async def _register(self, job: TrainingJob, handle: Handle | None, folder: Path) -> None:
        """Registers the model, then settles the job; in this order, so that a SUCCEEDED job always has its model."""
        await self._launcher.tidy(job, handle)
        try:
            model = await self._peers.register(job, folder)
        except Unavailable as error:
            raise Held("DATA_SERVICE_UNAVAILABLE", f"the model is trained and waits: {error.message}") from error
        await self._settle(job.name, handle, TrainingJob.STATE_SUCCEEDED, model=model)

    async def _after_delivery(self, job: TrainingJob, handle: Handle | None) -> None:
        """A job that delivered its model has ended; its program is about to."""
        await self._launcher.tidy(job, handle)
        tail = await self._tail(job, handle)

        def cleared(entry: Entry) -> None:
            entry.pid, entry.pid_start_time = 0, 0.0
            entry.job.log_tail[:] = tail

        await self._store.update(job.name, cleared, event=False)
        self._metrics.ended(job.state)

    async def _show(self, name: str, reason: str, message: str) -> None:
        """Writes what holds a job up, when that changed."""
        condition = (await self._store.get(name)).job.condition
        if (condition.reason, condition.message) == (reason, message):
            return

        def shown(entry: Entry) -> None:
            if not reason:
                entry.job.ClearField("condition")
            elif entry.job.state not in ENDED:
                if entry.job.condition.reason != reason:
                    entry.job.condition.update_time.CopyFrom(now())
                entry.job.condition.reason, entry.job.condition.message = reason, message

        await self._store.update(name, shown)
        self._changes.announce()

    async def _tail(self, job: TrainingJob, handle: Handle | None) -> list[str]:
        """The end of the log; none rather than an error, because nothing may keep a job from ending."""
        try:
            return list(await self._launcher.log_tail(job, handle))
        except (Held, OmnialignError) as error:
            log.warning("the log of %s cannot be read: %s", job.name, error)
            return []

    async def _settle(
        self,
        name: str,
        handle: Handle | None,
        state: "TrainingJob.State.ValueType",
        *,
        error: OmnialignError | None = None,
        model: str = "",
        tail: list[str] | None = None,
    ) -> None:
        """Writes a job's end; one that has ended already stays as it is."""
        if tail is None:
            tail = await self._tail((await self._store.get(name)).job, handle)
        lines = tail

        def ended(entry: Entry) -> None:
            if entry.job.state in ENDED:
                return
            settle(entry, state, model=model)
            entry.pid, entry.pid_start_time = 0, 0.0
            entry.job.log_tail[:] = lines
            if error is not None:
                entry.job.error.CopyFrom(to_status(error))

        settled = (await self._store.update(name, ended)).job
        if settled.state == state:
            self._metrics.ended(state)
        self._changes.announce()


def _note_end(entry: Entry, *, crashed: bool) -> None:
    entry.pid, entry.pid_start_time = 0, 0.0
    entry.num_crashes += crashed


def _handle(entry: Entry) -> Handle | None:
    return Handle(entry.pid, entry.pid_start_time) if entry.pid else None


def _spoke_at(job: TrainingJob) -> float:
    return job.progress.heartbeat_time.ToMilliseconds() / 1000


async def _within(change: asyncio.Event, seconds: float) -> None:
    # Not `wait_for`: in Python 3.11 it loses a cancellation that comes together with the event.
    with suppress(TimeoutError):
        async with asyncio.timeout(seconds):
            await change.wait()
