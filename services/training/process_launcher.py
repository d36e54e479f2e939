"""The launcher of a laptop: each attempt is a group of processes on the service's own machine."""

import asyncio
import os
from collections.abc import Mapping, Sequence
from typing import Protocol

from omnialign.errors import Unavailable
from omnialign.v1.training_service_pb2 import TrainingJob
from services.training.config import TrainingConfig
from services.training.failure_policy import failure_of
from services.training.job_directory import JobDirectory, spec_document
from services.training.launcher import Blocked, Handle, LogPart, Observation, Phase, Started, token_digest
from services.training.model_registry import ModelRegistry
from services.training.process_groups import ProcessGroups, log_part, log_tail
from training import launch
from training.launch import clear_failure

FEATURES_VARIABLE = "OMNIALIGN_ENGINE_FEATURE_CACHE"
"""Names the folder in which a training program looks for features of media."""

DAY_SECONDS = 86_400.0


class Addresses(Protocol):
    """Where jobs find the services."""

    def of_jobs(self) -> Mapping[str, str]:
        """The addresses by their keys in the spec of a job."""


class ProcessLauncher:
    """Runs torchrun, or the configured program, in a job's folder under the service's root."""

    max_nodes = 1
    longest_seconds = 30 * DAY_SECONDS

    def __init__(self, config: TrainingConfig, *, registry: ModelRegistry, addresses: Addresses) -> None:
        self._config, self._registry, self._addresses = config, registry, addresses
        self._groups = ProcessGroups(terminate_seconds=config.terminate_seconds)
        self._followed: dict[str, Handle] = {}

    async def open(self) -> None:
        """Does nothing: processes are found when their job is."""

    async def close(self) -> None:
        """Stops the processes if `stop_jobs_on_shutdown`; they go on from their checkpoints at the next start."""
        if self._config.stop_jobs_on_shutdown:
            await asyncio.gather(*(self._groups.stop(uid, handle) for uid, handle in self._followed.items()))

    async def start(self, job: TrainingJob, *, attempt: int, token: str) -> Started:
        """Writes the spec and starts the program. Raises `NotFound` and `InvalidArgument` for the base model."""
        await self._groups.stop(job.uid, None)  # an attempt that a service started and died before it could note it
        directory = self.directory(job)
        try:
            await self._registry.check_purpose(job.spec)
            base = await self._registry.base_model(job.spec.base_model, fetched=directory.fetched)
        except Unavailable as error:
            raise Blocked("DATA_SERVICE_UNAVAILABLE", error.message) from error
        document = spec_document(
            job,
            directory,
            base=base,
            addresses=self._addresses.of_jobs(),
            token=token,
        )
        document["step_timeout_seconds"] = self._config.step_timeout_seconds
        await asyncio.to_thread(directory.prepare, document)
        clear_failure(directory.output)
        handle = self._spawn(job, directory)
        self._followed[job.uid] = handle
        return Started(handle, token_digest(token))

    async def observe(self, job: TrainingJob, handle: Handle | None) -> Observation:
        """Looks at the process and at the model folder, which appears complete and therefore means success."""
        directory = self.directory(job)
        if handle is None:
            finished = directory.model.is_dir()
            return Observation(Phase.SUCCEEDED, model=directory.model) if finished else Observation(Phase.ABSENT)
        await self._adopt(job, handle, directory)
        ended = self._groups.poll(handle)
        if ended is None:
            return Observation(Phase.RUNNING)
        if directory.model.is_dir() and (ended.exit_code or 0) <= 0:
            return Observation(Phase.SUCCEEDED, model=directory.model)
        # Without an exit code, the process died while no service was running: that is not counted as a crash.
        return Observation(Phase.FAILED, error=failure_of(ended, directory), crashed=ended.exit_code is not None)

    async def stop(self, job: TrainingJob, handle: Handle | None) -> None:
        """Ends every process of a job."""
        await self._groups.stop(job.uid, handle)
        self._followed.pop(job.uid, None)

    async def tidy(self, job: TrainingJob, handle: Handle | None) -> None:
        """Ends the processes that a program left behind when it ended."""
        await self.stop(job, handle)

    async def log_tail(self, job: TrainingJob, handle: Handle | None) -> Sequence[str]:
        """The end of the job's log file."""
        return await asyncio.to_thread(log_tail, self.directory(job).log)

    async def read_log(self, job: TrainingJob, handle: Handle | None, *, position: int) -> LogPart:
        """Lines of the job's log file."""
        return await asyncio.to_thread(log_part, self.directory(job).log, position=position)

    async def forget(self, unfinished: Sequence[str]) -> None:
        """Does nothing: a job is marked as ended only after its processes are gone."""

    def directory(self, job: TrainingJob) -> JobDirectory:
        """The folder of a job."""
        return JobDirectory(self._config.root.resolve() / "jobs" / job.uid)

    async def _adopt(self, job: TrainingJob, handle: Handle, directory: JobDirectory) -> None:
        """Follows a process that an earlier service started; ends one that reports to an address that is no longer this
        service's. Its checkpoints stay, and the next attempt reports here."""
        if self._followed.get(job.uid) == handle:
            return
        if (
            self._groups.poll(handle) is None
            and directory.reports_to() != self._addresses.of_jobs()["training_address"]
        ):
            await self._groups.stop(job.uid, handle)
        self._followed[job.uid] = handle

    def _spawn(self, job: TrainingJob, directory: JobDirectory) -> Handle:
        num_processes = max(job.spec.distribution.num_processes, 1)
        if self._config.command:
            arguments = [*self._config.command, job.spec.method, str(directory.spec)]
        else:
            arguments = launch.command(
                job.spec.method, spec_path=directory.spec, num_processes=num_processes, python=self._config.python
            )
        environment = launch.environment(os.environ, num_processes=num_processes, num_cpus=self._config.num_cpus)
        if self._config.feature_cache is not None:
            environment[FEATURES_VARIABLE] = str(self._config.feature_cache)
        if self._config.stop_jobs_on_shutdown:
            environment[launch.SERVICE_VARIABLE] = str(os.getpid())
        return self._groups.start(
            arguments, uid=job.uid, environment=environment, folder=directory.folder, log=directory.log
        )
