"""What starts and ends the attempts of jobs, as the supervisor sees it.

Two launchers implement it: `processes` on the service's own machine, `kubernetes` in a cluster. The supervisor knows
neither: it asks what is seen of an attempt, and says start or stop.
"""

import enum
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from omnialign.errors import OmnialignError
from omnialign.v1.training_service_pb2 import TrainingJob


@dataclass(frozen=True)
class Handle:
    """What finds an attempt again after a restart of the service; the launcher alone knows what the numbers mean.

    A process: its id and its start time, which tells it from a later process of the same id. A Kubernetes Job: the
    number of the attempt, which is part of the Job's name.
    """

    pid: int
    start_time: float = 0.0


@dataclass(frozen=True)
class Started:
    """An attempt that was started, or found started already; in that case its token is an earlier one."""

    handle: Handle
    token_digest: str


class Phase(enum.Enum):
    """Where an attempt is."""

    ABSENT = enum.auto()
    """It was not started."""
    WAITING = enum.auto()
    """Started, but not all of it runs."""
    RUNNING = enum.auto()
    """All of it runs."""
    SUCCEEDED = enum.auto()
    """It ended well."""
    FAILED = enum.auto()
    """It ended otherwise."""


@dataclass(frozen=True)
class Observation:
    """What is seen of an attempt now.

    `reason` and `message` tell what holds it up, in UPPER_SNAKE and in one sentence; both are empty when nothing does.
    """

    phase: Phase
    reason: str = ""
    message: str = ""
    error: OmnialignError | None = None
    """Why it failed."""
    crashed: bool = True
    """Whether the failure is the program's own, and counts against the restarts allowed; an eviction is not."""
    model: Path | None = None
    """The finished model, when it lies in a folder of this machine; a model that was delivered does not."""


class Held(Exception):
    """Nothing can be done or seen for now, for a reason outside the job; trying again later is right."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason, self.message = reason, message


class Launcher(Protocol):
    """Starts, sees and ends attempts. Every method may raise `Held`."""

    max_nodes: int
    """Nodes that a job may have at most."""
    longest_seconds: float
    """How long an attempt may take at most; its token lives so long."""

    async def open(self) -> None:
        """Begins to look; called once before all else."""

    async def close(self) -> None:
        """Ends looking. Attempts go on unless the configuration says otherwise."""

    async def start(self, job: TrainingJob, *, attempt: int, token: str) -> Started:
        """Starts an attempt, counted from 1; repeated for the same attempt it finds the first one.

        Raises an `OmnialignError` when the job can never be started.
        """

    async def observe(self, job: TrainingJob, handle: Handle | None) -> Observation:
        """What is seen of the attempt; without a handle, of anything that an earlier attempt left finished."""

    async def stop(self, job: TrainingJob, handle: Handle | None) -> None:
        """Ends everything that was ever started for a job, and returns when it is gone."""

    async def tidy(self, job: TrainingJob, handle: Handle | None) -> None:
        """Ends what an attempt that is over may have left behind."""

    async def log_tail(self, job: TrainingJob, handle: Handle | None) -> Sequence[str]:
        """The last lines that the attempt printed, as far as they can be had."""

    async def forget(self, unfinished: Sequence[str]) -> None:
        """Ends whatever runs for jobs other than these, by uid: left by a service that died at the wrong moment."""
