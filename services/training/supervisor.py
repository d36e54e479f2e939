"""Runs queued jobs and follows them to their end, across restarts of the service.

One task per job that is not queued: it starts the program, looks at it, restarts it after a crash, and settles the
job's state. The store is written at every turn, so a service that is killed finds at its next start what was going on.
"""

import asyncio
import logging
import os
import time
from collections.abc import Callable
from contextlib import suppress

from omnialign.errors import Internal, OmnialignError, Unavailable, to_status
from omnialign.v1.training_service_pb2 import TrainingJob
from services.training.config import TrainingConfig
from services.training.ending import failure_of, may_restart
from services.training.jobs import Changes, token_digest
from services.training.launcher import Ended, Launcher, Started, log_tail
from services.training.peers import Peers
from services.training.store import ENDED, Entry, Store, now
from services.training.workplace import Workplace, document, new_token
from training import launch
from training.failure import clear_failure

log = logging.getLogger(__name__)

SCHEDULE_SECONDS = 1.0


class Supervisor:
    """Owns the processes of all jobs."""

    def __init__(
        self,
        config: TrainingConfig,
        *,
        store: Store,
        changes: Changes,
        launcher: Launcher,
        peers: Peers,
        addresses: "Addresses",
    ) -> None:
        self._config, self._store, self._changes = config, store, changes
        self._launcher, self._peers, self._addresses = launcher, peers, addresses
        self._followers: dict[str, asyncio.Task[None]] = {}
        self._processes: dict[str, tuple[str, Started]] = {}
        self._loop: asyncio.Task[None] | None = None

    async def start(self) -> None:
        """Begins to schedule; jobs left by an earlier service are taken up first."""
        self._loop = asyncio.create_task(self._schedule_for_ever(), name="training-supervisor")

    async def close(self) -> None:
        """Stops following; the processes are stopped too if the configuration says so. No job changes its state."""
        tasks = [*self._followers.values(), *([self._loop] if self._loop else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._config.stop_jobs_on_shutdown:
            await asyncio.gather(*(self._launcher.stop(uid, p) for uid, p in self._processes.values()))

    async def _schedule_for_ever(self) -> None:
        while True:
            change = self._changes.subscribe()
            try:
                await self._schedule()
            except OmnialignError as error:
                log.warning("scheduling failed and will be tried again: %s", error)
            except Exception:
                log.exception("scheduling failed in an unforeseen way and will be tried again")
            with suppress(TimeoutError):
                await asyncio.wait_for(change.wait(), timeout=SCHEDULE_SECONDS)

    async def _schedule(self) -> None:
        """Gives every job that should have a follower one, oldest first."""
        for name in [name for name, task in self._followers.items() if task.done()]:
            del self._followers[name]
        for entry in await self._store.unfinished():
            name, queued = entry.job.name, entry.job.state == TrainingJob.STATE_QUEUED
            if name in self._followers or (queued and len(self._followers) >= self._config.max_running):
                continue
            self._followers[name] = asyncio.create_task(self._follow(entry), name=f"follow {name}")

    async def _follow(self, entry: Entry) -> None:
        """Brings one job to its end."""
        name = entry.job.name
        try:
            await self._run(entry)
        except OmnialignError as error:
            await self._settle(name, TrainingJob.STATE_FAILED, error=error)
        except Exception as error:
            log.exception("following %s failed", name)
            await self._settle(name, TrainingJob.STATE_FAILED, error=Internal(f"the service failed: {error!r}"))
        finally:
            self._changes.announce()

    async def _run(self, entry: Entry) -> None:
        name, uid, place = entry.job.name, entry.job.uid, self.workplace(entry.job.uid)
        process = await self._adopt(entry, place)
        while True:
            if (await self._store.get(name)).job.state == TrainingJob.STATE_CANCELLING and process is None:
                await self._launcher.stop(uid, None)
                return await self._settle(name, TrainingJob.STATE_CANCELLED)
            if process is None and not place.model.is_dir():
                process = await self._start(name, place)
            ended, stopped_for = await self._until_ended(name, uid, process)
            await self._launcher.stop(uid, process)  # whatever a program that ended has left behind
            self._processes.pop(name, None)
            process = None
            if place.model.is_dir() and (ended.exit_code in (0, None) or stopped_for is not None):
                return await self._succeed(name, place)
            if stopped_for == TrainingJob.STATE_CANCELLING:
                return await self._settle(name, TrainingJob.STATE_CANCELLED)
            if not await self._may_go_on(name, ended, place, lost=stopped_for is not None):
                return None

    async def _adopt(self, entry: Entry, place: Workplace) -> Started | None:
        """The process that an earlier service started, if any; one that reports to where nobody listens is ended."""
        if not entry.pid:
            return None
        process = Started(entry.pid, entry.pid_start_time)
        if self._launcher.poll(process) is None and place.reports_to() != self._addresses.training():
            await self._launcher.stop(entry.job.uid, process)
        return process

    async def _start(self, name: str, place: Workplace) -> Started:
        entry = await self._store.get(name)
        job, token = entry.job, new_token()
        await self._launcher.stop(job.uid, None)  # an attempt that a dead service started and never noted
        base_model_dir = await self._peers.model_dir(job.spec.base_model)
        training_address, data_address = self._addresses.training(), self._addresses.data()
        text = document(
            job,
            place,
            base_model_dir=base_model_dir,
            data_address=data_address,
            training_address=training_address,
            token=token,
        )
        text["step_timeout_seconds"] = self._config.step_timeout_seconds
        await asyncio.to_thread(place.prepare, text)
        clear_failure(place.output)
        await self._store.update(name, lambda e: setattr(e, "token_digest", token_digest(token)), event=False)
        process = self._spawn(job, place)
        self._processes[name] = (job.uid, process)

        def started(entry: Entry) -> None:
            entry.pid, entry.pid_start_time = process.pid, process.start_time
            entry.job.attempt_count += 1
            if entry.job.state == TrainingJob.STATE_QUEUED:
                entry.job.state = TrainingJob.STATE_RUNNING
            if not entry.job.HasField("start_time"):
                entry.job.start_time.CopyFrom(now())

        await self._store.update(name, started)
        self._changes.announce()
        return process

    def _spawn(self, job: TrainingJob, place: Workplace) -> Started:
        num_processes = max(job.spec.distribution.num_processes, 1)
        if self._config.command:
            arguments = [*self._config.command, job.spec.method, str(place.spec)]
        else:
            arguments = launch.command(
                job.spec.method, spec_path=place.spec, num_processes=num_processes, python=self._config.python
            )
        environment = launch.environment(os.environ, num_processes=num_processes, num_cpus=self._config.num_cpus)
        return self._launcher.start(arguments, uid=job.uid, environment=environment, folder=place.folder, log=place.log)

    async def _until_ended(
        self, name: str, uid: str, process: Started | None
    ) -> tuple[Ended, "TrainingJob.State.ValueType | None"]:
        """Waits for the program. The second value is why it was ended: CANCELLING, FAILED for a lost heartbeat."""
        if process is None:
            return Ended(None), None
        self._processes[name] = (uid, process)
        followed_at = time.time()
        while (ended := self._launcher.poll(process)) is None:
            job = (await self._store.get(name)).job
            spoke_at = max(job.progress.heartbeat_time.ToMilliseconds() / 1000, followed_at)
            if job.state == TrainingJob.STATE_CANCELLING:
                await self._launcher.stop(uid, process)
                return self._launcher.poll(process) or Ended(None), TrainingJob.STATE_CANCELLING
            if time.time() - spoke_at > self._config.heartbeat_timeout_seconds:
                await self._launcher.stop(uid, process)
                return self._launcher.poll(process) or Ended(None), TrainingJob.STATE_FAILED
            change = self._changes.subscribe()
            with suppress(TimeoutError):
                await asyncio.wait_for(change.wait(), timeout=self._config.poll_seconds)
        return ended, None

    async def _may_go_on(self, name: str, ended: Ended, place: Workplace, *, lost: bool) -> bool:
        """Notes a crash; False when the job has failed for good."""
        error = failure_of(ended, place, lost_after_seconds=self._config.heartbeat_timeout_seconds if lost else None)
        # Without an exit code the process died while no service watched it: nobody's crash.
        crashed = ended.exit_code is not None or lost
        entry = await self._store.update(name, lambda e: _note_end(e, crashed=crashed), event=False)
        if entry.job.state == TrainingJob.STATE_CANCELLING:
            await self._settle(name, TrainingJob.STATE_CANCELLED)
            return False
        if not lost and may_restart(error, crashes=entry.num_crashes, allowed=entry.job.spec.max_restarts):
            log.warning("%s ended (%s) and is started again from its newest checkpoint", name, ended.reason())
            return True
        await self._settle(name, TrainingJob.STATE_FAILED, error=error)
        return False

    async def _succeed(self, name: str, place: Workplace) -> None:
        """Registers the model, then settles the job; in this order, so that a SUCCEEDED job always has its model."""
        job = (await self._store.get(name)).job
        try:
            model = await self._peers.register(job, place.model)
        except Unavailable as error:
            raise Unavailable(
                f"the model is trained but could not be registered: {error.message}", reason="MODEL_NOT_REGISTERED"
            ) from error
        await self._settle(name, TrainingJob.STATE_SUCCEEDED, model=model)

    async def _settle(
        self,
        name: str,
        state: "TrainingJob.State.ValueType",
        *,
        error: OmnialignError | None = None,
        model: str = "",
    ) -> None:
        """Writes a job's end; one that has ended already stays as it is."""
        tail = await asyncio.to_thread(log_tail, self.workplace((await self._store.get(name)).job.uid).log)

        def ended(entry: Entry) -> None:
            if entry.job.state in ENDED:
                return
            entry.pid, entry.pid_start_time = 0, 0.0
            entry.job.state, entry.job.model = state, model
            entry.job.end_time.CopyFrom(now())
            entry.job.log_tail[:] = tail
            if error is not None:
                entry.job.error.CopyFrom(to_status(error))

        await self._store.update(name, ended)
        self._changes.announce()

    def workplace(self, uid: str) -> Workplace:
        """The folder of a job."""
        return Workplace(self._config.root.resolve() / "jobs" / uid)


class Addresses:
    """Where jobs find the services; known once the server is bound."""

    def __init__(self, config: TrainingConfig, own: Callable[[], str]) -> None:
        self._config, self._own = config, own

    def data(self) -> str:
        """The data service."""
        return self._config.data_address or self._own()

    def training(self) -> str:
        """This service."""
        return self._config.training_address or self._own()


def _note_end(entry: Entry, *, crashed: bool) -> None:
    entry.pid, entry.pid_start_time = 0, 0.0
    entry.num_crashes += crashed
