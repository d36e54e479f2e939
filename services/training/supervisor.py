"""Runs queued jobs and follows them to their end, across restarts of the service.

One task per launched job observes it through the launcher, step by step, and writes what it finds. Every turn goes to
the store before the next one, so a service that is killed finds at its next start what was going on. A job is known
from two sources, which must agree: what the launcher observes, and what the job reports of itself.
"""

import asyncio
import logging
import time
from dataclasses import dataclass, field
from pathlib import Path

from omnialign.errors import Internal, OmnialignError, Unavailable, to_status
from omnialign.retry import wait_for_event
from omnialign.v1.training_service_pb2 import TrainingJob
from services.runtime.logs import Recurring
from services.runtime.uses import Uses
from services.training.conditions import (
    STARTING,
    Condition,
    note_condition,
    note_new_attempt,
    of_running,
    shows,
    waiting_for_slot,
)
from services.training.config import TrainingConfig
from services.training.failure_policy import heartbeat_lost, may_restart, not_delivered
from services.training.jobs import Notifier
from services.training.launcher import Blocked, Handle, Launcher, MakeToken, Observation, Phase, token_digest
from services.training.metrics import Metrics
from services.training.model_registry import ModelRegistry
from services.training.store import ENDED, Entry, Store, note_running, settle

log = logging.getLogger(__name__)

SCHEDULE_SECONDS = 1.0
SILENCE_SHOWN_SECONDS = 25.0
"""Silence of a running job that is shown as its condition; it is killed only after `heartbeat_timeout_seconds`."""
BLOCKED_SECONDS = 5.0
"""How often something that is blocked is tried again."""


@dataclass
class AttemptState:
    """What the follower of a job remembers of its attempt from one step to the next."""

    running_since: float | None = None
    verdict: Observation | None = None
    """How the attempt failed, once that is decided. Ending it may take several steps and changes what is observed."""
    tail: list[str] = field(default_factory=list)


class Supervisor:
    """Brings every job from QUEUED to its end."""

    def __init__(
        self,
        config: TrainingConfig,
        *,
        store: Store,
        notifier: Notifier,
        launcher: Launcher,
        registry: ModelRegistry,
        make_token: MakeToken,
        metrics: Metrics,
        uses: Uses,
    ) -> None:
        self._config, self._store, self._notifier = config, store, notifier
        self._launcher, self._registry, self._make_token = launcher, registry, make_token
        self._metrics, self._uses = metrics, uses
        self._followers: dict[str, asyncio.Task[None]] = {}
        self._loop: asyncio.Task[None] | None = None
        self._forgot = False
        self._rounds = Recurring(log)

    async def start(self) -> None:
        """Starts to schedule, beginning with the jobs that an earlier service left."""
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
            change = self._notifier.subscribe()
            try:
                await self._schedule()
            except Exception as error:
                self._rounds.failed("scheduling", error)
            else:
                self._rounds.succeeded("scheduling")
            await wait_for_event(change, timeout_seconds=SCHEDULE_SECONDS)

    async def _schedule(self) -> None:
        """Starts a follower for every job that should have one, oldest first."""
        for name in [name for name, task in self._followers.items() if task.done()]:
            del self._followers[name]
        unfinished = await self._store.unfinished()
        self._metrics.show([entry.job for entry in unfinished])
        if not self._forgot:
            await self._forget(unfinished)
        for ahead, entry in enumerate(unfinished):
            name, waiting = entry.job.name, entry.job.state == TrainingJob.STATE_QUEUED and not entry.pid
            if name in self._followers:
                continue
            # Only a job that was never launched waits for its turn: one that is to be cancelled, or that an earlier
            # service launched, takes no further slot.
            if waiting and len(self._followers) >= self._config.max_running:
                turn = waiting_for_slot(ahead=ahead, max_running=self._config.max_running)
                if not shows(entry.job, turn):
                    await self._show(name, turn)
                continue
            self._followers[name] = asyncio.create_task(self._follow(name), name=f"follow {name}")

    async def _forget(self, unfinished: list[Entry]) -> None:
        """Ends, once per start of the service, what an earlier one left running for jobs that have ended."""
        try:
            await self._launcher.forget([entry.job.uid for entry in unfinished])
            self._forgot = True
        except Blocked as blocked:
            log.warning("what earlier jobs left behind cannot be ended yet: %s", blocked)

    async def _follow(self, name: str) -> None:
        """Brings one job to its end, step by step; whatever else is raised fails the job."""
        attempt = AttemptState()
        try:
            while True:
                change, pause_seconds = self._notifier.subscribe(), self._config.poll_seconds
                try:
                    if await self._step(name, attempt):
                        return
                except Blocked as blocked:
                    await self._show(name, Condition(blocked.reason, blocked.message))
                    pause_seconds = BLOCKED_SECONDS
                except Unavailable as error:
                    self._rounds.failed(f"observing {name}", error)
                    pause_seconds = BLOCKED_SECONDS
                await wait_for_event(change, timeout_seconds=pause_seconds)
        except OmnialignError as error:
            await self._settle(name, None, TrainingJob.STATE_FAILED, error=error)
        except Exception as error:
            log.exception("following %s failed", name)
            await self._settle(name, None, TrainingJob.STATE_FAILED, error=Internal(f"the service failed: {error!r}"))
        finally:
            self._notifier.notify_all()

    async def _step(self, name: str, attempt: AttemptState) -> bool:
        """Observes a job once and does what is due; True when nothing is left to do."""
        entry = await self._store.get(name)
        job, handle = entry.job, _handle(entry)
        if job.state in ENDED:
            await self._after_delivery(job, handle)
            return True
        if job.state == TrainingJob.STATE_CANCELLING:
            await self._cancel(job, handle)
            return True
        seen = attempt.verdict or await self._launcher.observe(job, handle)
        if seen.phase is Phase.ABSENT:
            await self._begin(job)
        elif seen.phase is Phase.SUCCEEDED and seen.model is not None:
            await self._register(job, handle, seen.model)
            return True
        elif seen.phase is Phase.SUCCEEDED:
            # A delivery settles the job before the pod can exit: if the store, read after the pod was seen to have
            # succeeded, has no model, none will come.
            if (await self._store.get(name)).job.state not in ENDED:
                attempt.verdict = Observation(Phase.FAILED, error=not_delivered())
        elif seen.phase is Phase.FAILED:
            attempt.verdict = seen
            return await self._end_attempt(job, handle, attempt)
        else:
            await self._watch_over(job, seen, attempt)
        return False

    async def _begin(self, job: TrainingJob) -> None:
        """Starts the next attempt.

        A crash at any line is safe. Before the launcher's answer is stored, the job has no handle, so the next service
        begins the same attempt again: a process launcher first ends what it finds of the job, a cluster finds the Job
        by its name. The digest is stored before the start, because the program may report at once.
        """
        try:
            models = await self._registry.versions_of(job.spec.base_model)
        except Unavailable as error:
            raise Blocked("DATA_SERVICE_UNAVAILABLE", error.message) from error
        token = self._make_token(job, [job.spec.dataset, *models], self._launcher.longest_seconds)
        await self._store.update(job.name, lambda e: setattr(e, "token_digest", token_digest(token)), event=False)
        number = job.attempt_count + 1
        started = await self._launcher.start(job, attempt=number, token=token)

        def begun(entry: Entry) -> None:
            entry.pid, entry.pid_start_time = started.handle.pid, started.handle.start_time
            entry.token_digest = started.token_digest
            entry.job.attempt_count = number
            note_new_attempt(entry.job.progress)
            note_condition(entry, STARTING)

        entry = await self._store.update(job.name, begun)
        if number > 1:
            self._metrics.started(entry.job)
        self._notifier.notify_all()

    async def _watch_over(self, job: TrainingJob, seen: Observation, attempt: AttemptState) -> None:
        """Notes what became of an attempt that goes on; one that is silent for too long has failed."""
        condition = Condition(seen.reason, seen.message) if seen.reason else STARTING
        if seen.phase is not Phase.RUNNING:
            attempt.running_since = None
        else:
            await self._note_running(job)
            # Silence counts from the heartbeat or, after a restart of the service or the pods, from when this service
            # first saw the attempt run: a job must not die because nobody listened.
            attempt.running_since = attempt.running_since or time.time()
            silent_seconds = time.time() - max(_spoke_at(job), attempt.running_since)
            if silent_seconds > self._config.heartbeat_timeout_seconds:
                error = heartbeat_lost(self._config.heartbeat_timeout_seconds)
                attempt.verdict = Observation(Phase.FAILED, error=error)
            condition = of_running(job.progress)
            if silent_seconds > SILENCE_SHOWN_SECONDS:
                limit = f"{self._config.heartbeat_timeout_seconds:g} s of silence"
                message = f"the job runs but sends no heartbeat; it will be killed after {limit}"
                condition = Condition("HEARTBEAT_LOST", message)
        if not shows(job, condition):
            await self._show(job.name, condition)

    async def _note_running(self, job: TrainingJob) -> None:
        if job.state != TrainingJob.STATE_QUEUED and job.HasField("start_time"):
            return
        entry = await self._store.update(job.name, note_running)
        if entry.job.attempt_count == 1 and entry.job.state == TrainingJob.STATE_RUNNING:
            self._metrics.started(entry.job)
        self._notifier.notify_all()

    async def _cancel(self, job: TrainingJob, handle: Handle | None) -> None:
        """Ends everything, then marks the job as cancelled. A model that was finished in the meantime is kept."""
        tail = await self._tail(job, handle)
        await self._launcher.stop(job, handle)
        seen = await self._launcher.observe(job, handle)
        if handle is not None and seen.phase is Phase.SUCCEEDED and seen.model is not None:
            await self._register(job, handle, seen.model)
        else:
            await self._settle(job.name, handle, TrainingJob.STATE_CANCELLED, tail=tail)

    async def _end_attempt(self, job: TrainingJob, handle: Handle | None, attempt: AttemptState) -> bool:
        """Ends an attempt that failed; True when the job has ended with it."""
        verdict = attempt.verdict or Observation(Phase.FAILED)
        error = verdict.error or Internal("the attempt failed and left no error", reason="PROCESS_DIED")
        attempt.tail = attempt.tail or await self._tail(job, handle)
        await self._launcher.tidy(job, handle)
        tail, attempt.tail, attempt.verdict, attempt.running_since = attempt.tail, [], None, None
        entry = await self._store.update(job.name, lambda e: _note_end(e, crashed=verdict.crashed), event=False)
        if entry.job.state == TrainingJob.STATE_CANCELLING:
            await self._settle(job.name, handle, TrainingJob.STATE_CANCELLED, tail=tail)
        elif may_restart(error, crashes=entry.num_crashes, allowed=entry.job.spec.max_restarts):
            log.warning("%s failed (%s) and is started again from its newest checkpoint", job.name, error)
            return False
        else:
            await self._settle(job.name, handle, TrainingJob.STATE_FAILED, error=error, tail=tail)
        return True

    async def _register(self, job: TrainingJob, handle: Handle | None, folder: Path) -> None:
        """Registers the model, then settles the job: in this order, a SUCCEEDED job always has its model."""
        await self._launcher.tidy(job, handle)
        try:
            model = await self._registry.register(job, folder)
        except Unavailable as error:
            raise Blocked(
                "DATA_SERVICE_UNAVAILABLE", f"the model is trained and waits to be registered: {error.message}"
            ) from error
        await self._settle(job.name, handle, TrainingJob.STATE_SUCCEEDED, model=model)

    async def _after_delivery(self, job: TrainingJob, handle: Handle | None) -> None:
        """Cleans up after a job that ended by delivering its model; its program is about to exit."""
        await self._launcher.tidy(job, handle)
        tail = await self._tail(job, handle)

        def cleared(entry: Entry) -> None:
            entry.pid, entry.pid_start_time = 0, 0.0
            entry.job.log_tail[:] = tail

        await self._store.update(job.name, cleared, event=False)
        self._metrics.ended(job.state)

    async def _show(self, name: str, condition: Condition) -> None:
        """Writes why a job does no steps, if that changed."""
        if shows((await self._store.get(name)).job, condition):
            return
        await self._store.update(name, lambda entry: note_condition(entry, condition))
        self._notifier.notify_all()

    async def _tail(self, job: TrainingJob, handle: Handle | None) -> list[str]:
        """The end of the log; empty rather than an error, because nothing may keep a job from ending."""
        try:
            return list(await self._launcher.log_tail(job, handle))
        except (Blocked, OmnialignError) as error:
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
        """Writes the end of a job; one that has ended already stays as it is."""
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

        await self._uses.end(name)  # before it has ended: whoever waits for that can delete what it used
        settled = (await self._store.update(name, ended)).job
        if settled.state == state:
            self._metrics.ended(state)
        self._notifier.notify_all()


def _note_end(entry: Entry, *, crashed: bool) -> None:
    entry.pid, entry.pid_start_time = 0, 0.0
    entry.num_crashes += crashed


def _handle(entry: Entry) -> Handle | None:
    return Handle(entry.pid, entry.pid_start_time) if entry.pid else None


def _spoke_at(job: TrainingJob) -> float:
    return job.progress.heartbeat_time.ToMilliseconds() / 1000
