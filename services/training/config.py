"""Settings of the training service, read once from the environment (`OMNIALIGN_TRAINING_*`)."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from omnialign.errors import InvalidArgument
from services.runtime.database import url_problems
from services.training.kubernetes.settings import read_settings


@dataclass(frozen=True)
class TrainingConfig:
    """Where the state is kept, how many jobs run, and how long things may take."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_TRAINING_"

    root: Path
    """Folder that holds `jobs/<uid>/` and, unless `database_url` says otherwise, `training.db`."""
    data_address: str = ""
    """Where the data service answers; empty means this server."""
    training_address: str = ""
    """Where jobs report to; empty means this server."""
    refinement_address: str = ""
    """Where jobs of reinforcement learning draw answers and hand weights over; empty means this server."""
    judge_address: str = ""
    """Where such jobs have answers rewarded; empty means this server."""
    critique_address: str = ""
    """Where such jobs have answers criticised; empty means this server."""
    database_url: str = ""
    """SQLAlchemy URL of the jobs; empty means SQLite in `root`."""
    migrate_at_start: bool = False
    """Whether the service makes the tables of a PostgreSQL database itself, instead of `services.migrate`."""
    database_budget_seconds: float = 1800.0
    """How long background work waits for a database that is away before it fails."""
    launcher: Literal["process", "kubernetes"] = "process"
    """What runs jobs: processes on this machine, or Kubernetes Jobs."""
    kubernetes_file: Path | None = None
    """YAML file that describes the pods of jobs; required by the launcher `kubernetes`."""
    device_memory_bytes: int = 0
    """Memory of one device; a job that needs more is refused. 0 means that of this machine for processes without a GPU,
    and otherwise that it is not known and no job is refused for it."""
    max_running: int = 1
    """Jobs that run at a time; the others wait in the order in which they came."""
    command: tuple[str, ...] = ()
    """Arguments of the program to run instead of torchrun; the method and the spec's path are appended."""
    feature_cache: Path | None = None
    """Folder where jobs keep features of media, which engines may share; unset gives each job its own."""
    num_cpus: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Cores that a job's processes share."""
    terminate_seconds: float = 5.0
    """How long the processes of a job may take to end after SIGTERM before they are killed."""
    heartbeat_timeout_seconds: float = 300.0
    """A job that sends no heartbeat for this long is killed and FAILED (HEARTBEAT_LOST)."""
    step_timeout_seconds: float = 240.0
    """A training step that takes this long is stuck; the run prints its stacks and ends."""
    poll_seconds: float = 0.2
    """How often the attempts of jobs are observed."""
    stop_jobs_on_shutdown: bool = True
    """Whether the processes end with the service, even if it is killed; they go on from their checkpoint at the next
    start. False leaves them running for the next start to adopt."""
    metrics_port: int | None = None
    """Port on which rank 0 of a job serves its metrics; unset means none."""
    metrics_host: str = "127.0.0.1"
    """Address on which rank 0 of a job serves its metrics; `0.0.0.0` in a pod."""
    python: str = sys.executable
    """The interpreter of the training program."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Numbers out of range, an invalid URL, and what the launcher `kubernetes` lacks."""
        yield from url_problems(database_url=self.database_url)
        for name in ("max_running", "num_cpus"):
            if getattr(self, name) < 1:
                yield name, "must be 1 or more"
        if self.device_memory_bytes < 0:
            yield "device_memory_bytes", "must be 0 or more"
        for name in ("heartbeat_timeout_seconds", "step_timeout_seconds", "poll_seconds"):
            if getattr(self, name) <= 0:
                yield name, "must be a number of seconds above 0"
        if not 0 <= self.terminate_seconds <= 9:
            yield "terminate_seconds", "must be between 0 and 9, because a cancelled job is gone within ten seconds"
        if self.launcher == "kubernetes":
            yield from self._file_problems()
            for name in ("data_address", "training_address"):
                if not getattr(self, name):
                    yield name, "is required by the launcher 'kubernetes', because pods cannot guess it"

    def _file_problems(self) -> Iterator[tuple[str, str]]:
        if self.kubernetes_file is None:
            yield "kubernetes_file", "is required by the launcher 'kubernetes'"
            return
        try:
            read_settings(self.kubernetes_file)
        except InvalidArgument as error:
            for key, problem in error.violations:
                yield "kubernetes_file", f"{key}: {problem}"

    def addresses(self) -> dict[str, str]:
        """The services that jobs call, by their keys in the spec of a job."""
        names = ("data_address", "training_address", "refinement_address", "judge_address", "critique_address")
        return {name: getattr(self, name) for name in names}

    def database(self) -> str:
        """URL of the database."""
        return self.database_url or f"sqlite:///{self.root / 'training.db'}"
