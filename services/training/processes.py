"""The launcher of a laptop: each attempt is a group of processes on the service's own machine."""

import asyncio
import os
from collections.abc import Sequence
from typing import Protocol

from omnialign.errors import Unavailable
from omnialign.v1.training_service_pb2 import TrainingJob
from services.training.config import TrainingConfig
from services.training.ending import failure_of
from services.training.groups import Groups, log_tail
from services.training.launcher import Handle, Held, Observation, Phase, Started
from services.training.peers import Peers
from services.training.tokens import token_digest
from services.training.workplace import Workplace, document
from training import launch
from training.failure import clear_failure

FEATURES_VARIABLE = "OMNIALIGN_ENGINE_FEATURE_CACHE"
"""Where a training program looks for decoded media."""

DAY_SECONDS = 86_400.0


class Addresses(Protocol):
    """Where jobs find the services."""

    def data(self) -> str:
        """The data service."""

    def training(self) -> str:
        """This service."""


class ProcessLauncher:
    """Runs torchrun, or the configured program, in a job's folder under the service's root."""

    max_nodes = 1
    longest_seconds = 30 * DAY_SECONDS

    def __init__(self, config: TrainingConfig, *, peers: Peers, addresses: Addresses) -> None:
        self._config, self._peers, self._addresses = config, peers, addresses
        self._groups = Groups(terminate_seconds=config.terminate_seconds)
        self._followed: dict[str, Handle] = {}

    async def open(self) -> None:
        """Nothing to look at before a job is."""

    async def close(self) -> None:
        """Stops the processes if the configuration says so; they go on from their checkpoints at the next start."""
        if self._config.stop_jobs_on_shutdown:
            await asyncio.gather(*(self._groups.stop(uid, handle) for uid, handle in self._followed.items()))

    async def start(self, job: TrainingJob, *, attempt: int, token: str) -> Started:
        """Writes the spec and starts the program. Raises `NotFound` and `InvalidArgument` for the base model."""
        await self._groups.stop(job.uid, None)  # an attempt that a dead service started and never noted
        place = self.workplace(job)
        try:
            base_model_dir = await self._peers.model_dir(job.spec.base_model, fetched=place.fetched)
        except Unavailable as error:
            raise Held("DATA_SERVICE_UNAVAILABLE", error.message) from error
        text = document(
            job,
            place,
            base_model_dir=base_model_dir,
            data_address=self._addresses.data(),
            training_address=self._addresses.training(),
            token=token,
        )
        text["step_timeout_seconds"] = self._config.step_timeout_seconds
        await asyncio.to_thread(place.prepare, text)
        clear_failure(place.output)
        handle = self._spawn(job, place)
        self._followed[job.uid] = handle
        return Started(handle, token_digest(token))

    async def observe(self, job: TrainingJob, handle: Handle | None) -> Observation:
        """Looks at the process; a model folder that is complete is success, whoever saw the process end."""
        place = self.workplace(job)
        if handle is None:
            finished = place.model.is_dir()
            return Observation(Phase.SUCCEEDED, model=place.model) if finished else Observation(Phase.ABSENT)
        await self._adopt(job, handle, place)
        ended = self._groups.poll(handle)
        if ended is None:
            return Observation(Phase.RUNNING)
        if place.model.is_dir() and (ended.exit_code or 0) <= 0:
            return Observation(Phase.SUCCEEDED, model=place.model)
        # Without an exit code the process died while no service watched it: nobody's crash.
        return Observation(Phase.FAILED, error=failure_of(ended, place), crashed=ended.exit_code is not None)

    async def stop(self, job: TrainingJob, handle: Handle | None) -> None:
        """Ends every process of a job."""
        await self._groups.stop(job.uid, handle)
        self._followed.pop(job.uid, None)

    async def tidy(self, job: TrainingJob, handle: Handle | None) -> None:
        """Ends processes that a program which ended has left behind."""
        await self.stop(job, handle)

    async def log_tail(self, job: TrainingJob, handle: Handle | None) -> Sequence[str]:
        """The end of the job's log file."""
        return await asyncio.to_thread(log_tail, self.workplace(job).log)

    async def forget(self, unfinished: Sequence[str]) -> None:
        """Processes of jobs that ended are gone: a job ends only after they are."""

    def workplace(self, job: TrainingJob) -> Workplace:
        """The folder of a job."""
        return Workplace(self._config.root.resolve() / "jobs" / job.uid)

    async def _adopt(self, job: TrainingJob, handle: Handle, place: Workplace) -> None:
        """Takes up a process that an earlier service started; one that reports to where nobody listens is ended."""
        if self._followed.get(job.uid) == handle:
            return
        if self._groups.poll(handle) is None and place.reports_to() != self._addresses.training():
            await self._groups.stop(job.uid, handle)
        self._followed[job.uid] = handle

    def _spawn(self, job: TrainingJob, place: Workplace) -> Handle:
        num_processes = max(job.spec.distribution.num_processes, 1)
        if self._config.command:
            arguments = [*self._config.command, job.spec.method, str(place.spec)]
        else:
            arguments = launch.command(
                job.spec.method, spec_path=place.spec, num_processes=num_processes, python=self._config.python
            )
        environment = launch.environment(os.environ, num_processes=num_processes, num_cpus=self._config.num_cpus)
        if self._config.feature_cache is not None:
            environment[FEATURES_VARIABLE] = str(self._config.feature_cache)
        return self._groups.start(arguments, uid=job.uid, environment=environment, folder=place.folder, log=place.log)
