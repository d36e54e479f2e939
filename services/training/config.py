"""Settings of the training service, read once from the environment (`OMNIALIGN_TRAINING_*`)."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar


@dataclass(frozen=True)
class TrainingConfig:
    """Where the state lies, how many jobs run, and how long things may take."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_TRAINING_"

    root: Path
    """Folder that holds `jobs/<uid>/` and, unless `database_url` says otherwise, `training.db`."""
    data_address: str = ""
    """Where the data service answers; empty means this server."""
    training_address: str = ""
    """Where jobs report to; empty means this server."""
    database_url: str = ""
    """SQLAlchemy URL of the jobs; empty means SQLite in `root`."""
    max_running: int = 1
    """Jobs that run at a time; the others wait in the order they came."""
    command: tuple[str, ...] = ()
    """Arguments of the program to run instead of torchrun; the method and the spec's path are appended."""
    num_cpus: int = field(default_factory=lambda: os.cpu_count() or 1)
    """Cores that a job's processes share."""
    terminate_seconds: float = 5.0
    """How long the processes of a job may take to end by themselves before they are killed."""
    heartbeat_timeout_seconds: float = 300.0
    """A job that has not spoken for so long is killed and FAILED (HEARTBEAT_LOST)."""
    step_timeout_seconds: float = 240.0
    """A training step that takes so long is stuck; the run shows its stacks and ends."""
    poll_seconds: float = 0.2
    """How often the processes are looked at."""
    stop_jobs_on_shutdown: bool = True
    """Whether an orderly shutdown stops the processes; they go on from their checkpoint at the next start. False
    leaves them running for the next start to adopt."""
    python: str = sys.executable
    """The interpreter of the training program."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Numbers out of range."""
        for name in ("max_running", "num_cpus"):
            if getattr(self, name) < 1:
                yield name, "must be 1 or more"
        for name in ("heartbeat_timeout_seconds", "step_timeout_seconds", "poll_seconds"):
            if getattr(self, name) <= 0:
                yield name, "must be a number of seconds above 0"
        if not 0 <= self.terminate_seconds <= 9:
            yield "terminate_seconds", "must be between 0 and 9, because a cancelled job is gone within ten seconds"

    def database(self) -> str:
        """URL of the database."""
        return self.database_url or f"sqlite+aiosqlite:///{self.root / 'training.db'}"
