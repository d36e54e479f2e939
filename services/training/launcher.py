"""Attempts: what starts, observes and ends them, as the supervisor sees it, and the token that each one gets.

Two launchers implement the protocol: `process_launcher` on the service's own machine, `kubernetes` in a cluster. The
supervisor knows neither: it asks how an attempt is doing, and orders it to start or stop.
"""

import enum
import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from omnialign.errors import OmnialignError
from omnialign.v1.training_service_pb2 import TrainingJob, TrainingSpec
from services.runtime.auth.tokens import JobTokens

LINE_CHARACTERS = 2000
"""Longest line of a log that is shown; the rest of a longer one is cut off."""


@dataclass(frozen=True)
class Handle:
    """Finds an attempt again after a restart of the service. Only the launcher knows what the numbers mean.

    A process: its id and its start time, which tells it from a later process with the same id. A Kubernetes Job: the
    number of the attempt, which is part of the Job's name.
    """

    pid: int
    start_time: float = 0.0


@dataclass(frozen=True)
class Started:
    """An attempt that was started, or was found started already; in that case its token is an earlier one."""

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
    """It ended successfully."""
    FAILED = enum.auto()
    """It ended in any other way."""


@dataclass(frozen=True)
class Observation:
    """What is known of an attempt now.

    `reason` (UPPER_SNAKE) and `message` (one sentence) say what blocks it; both are empty when nothing does.
    """

    phase: Phase
    reason: str = ""
    message: str = ""
    error: OmnialignError | None = None
    """Why it failed."""
    crashed: bool = True
    """Whether the program itself failed, which counts against the restarts allowed; an eviction does not."""
    model: Path | None = None
    """The finished model, if it is in a folder of this machine; None for a model that the job delivered."""


@dataclass(frozen=True)
class LogPart:
    """Whole lines of a log, and the position in bytes at which they end."""

    lines: Sequence[str]
    position: int

    @classmethod
    def of(cls, data: bytes, *, position: int) -> "LogPart":
        """The whole lines in what follows a position; what has no end yet is left for the next part."""
        whole = data[: data.rfind(b"\n") + 1]
        text = whole.decode("utf-8", errors="replace")
        return cls([line[:LINE_CHARACTERS] for line in text.splitlines()], position + len(whole))


class Blocked(Exception):
    """Nothing can be done or observed for now, for a reason outside the job; trying again later is right."""

    def __init__(self, reason: str, message: str) -> None:
        super().__init__(f"{reason}: {message}")
        self.reason, self.message = reason, message


class Launcher(Protocol):
    """Starts, observes and ends attempts. Every method may raise `Blocked`."""

    max_nodes: int
    """Most nodes that a job may have."""
    longest_seconds: float
    """Longest time that an attempt may take; its token is valid for as long."""

    async def open(self) -> None:
        """Connects to where attempts run; called once, before everything else."""

    async def close(self) -> None:
        """Disconnects. Attempts go on unless the configuration says otherwise."""

    async def start(self, job: TrainingJob, *, attempt: int, token: str) -> Started:
        """Starts an attempt, counted from 1. Repeated for the same attempt, it finds the one already started.

        Raises an `OmnialignError` if the job can never be started.
        """

    async def observe(self, job: TrainingJob, handle: Handle | None) -> Observation:
        """The state of the attempt; without a handle, of anything that an earlier attempt finished."""

    async def stop(self, job: TrainingJob, handle: Handle | None) -> None:
        """Ends everything that was ever started for a job, and returns when it is gone."""

    async def tidy(self, job: TrainingJob, handle: Handle | None) -> None:
        """Ends what an attempt that is over may have left running."""

    async def log_tail(self, job: TrainingJob, handle: Handle | None) -> Sequence[str]:
        """The last lines that the attempt printed, as far as they are available."""

    async def read_log(self, job: TrainingJob, handle: Handle | None, *, position: int) -> LogPart:
        """What the attempt printed after a position, as far as it is available."""

    async def forget(self, unfinished: Sequence[str]) -> None:
        """Ends what runs for jobs other than `unfinished` (uids): left by a service that died at the wrong moment."""


MakeToken = Callable[[TrainingJob, Sequence[str], float], str]
"""Makes the token of a job, which may read the resources that are named, for a number of seconds."""


def random_token(job: TrainingJob, inputs: Sequence[str], lifetime_seconds: float) -> str:
    """A token that nobody can guess, for a service whose peers do not check tokens."""
    return secrets.token_urlsafe(32)


def signed_token(tokens: JobTokens) -> MakeToken:
    """Makes tokens that name the job and its inputs; every service that shares the key can check them."""

    def make(job: TrainingJob, inputs: Sequence[str], lifetime_seconds: float) -> str:
        inputs = [*inputs, *reward_models(job.spec)]
        return tokens.make(job.name, inputs=inputs, lifetime_seconds=lifetime_seconds)

    return make


def reward_models(spec: TrainingSpec) -> list[str]:
    """The judges, critics and reward models that a method which draws its own answers has them rewarded by."""
    terms = [*spec.grpo.rollout.rewards, *spec.ppo.rollout.rewards]
    return [model for term in terms for model in (term.reward_model, term.judge, term.critic) if model]


def token_digest(token: str) -> str:
    """What the store keeps of a token, so that reading the database gives nobody a job's rights."""
    return hashlib.sha256(token.encode()).hexdigest()
