"""What the job kinds of a process share: DBOS lives once in it, and knows the workflow functions of each by name."""

import asyncio
import functools
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from dbos import DBOS

from services.pipeline.notifier import Signal

WORKFLOW_VERSION = "1"
"""Raise it only if running jobs cannot be continued by the new code: their steps are replayed by position."""
OLDEST = "alignment"
"""The application whose versions do not name it: jobs from the time when it was the only one go on."""


class Workflows(Protocol):
    """What the engine runs. Both may be called again for work that was begun before: they must continue it."""

    async def run_job(self, uid: str) -> None:
        """Works on a job until it has ended."""

    async def run_chunks(self, uid: str, phase: str, numbers: Sequence[int]) -> None:
        """Works on chunks of a job, side by side; numbers beyond the last chunk are left out."""


class Engine(Protocol):
    """The workflows of one job kind."""

    async def run(self, work: Callable[[Workflows], Awaitable[None]]) -> None:
        """Runs the body of a workflow."""


@dataclass
class Shared:
    """What the kinds of this process share: DBOS is a singleton, so this is one too."""

    engines: dict[str, Engine]
    """The engines that were started, by kind."""
    url: str
    """Where the workflows of all of them are kept."""
    instance: Any = None
    """The DBOS that the first of them launched."""
    kinds: set[str] = field(default_factory=set)
    """The kinds that this process has, whether they were started or not."""
    launch: asyncio.Future[None] | None = None
    """The launch of the instance, by the first kind."""
    changed: Signal = field(default_factory=Signal)
    """Notified when a kind starts or stops."""
    left: set[str] = field(default_factory=set)
    """Kinds that stopped while others went on."""
    waiting: set[str] = field(default_factory=set)
    """Ids of workflows that wait for their kind to start."""


SHARED = Shared({}, url="")


@functools.cache
def registered(kind: str) -> tuple[Callable[..., Any], Callable[..., Any], Callable[..., Any]]:
    """The workflow functions of a kind, known to DBOS by the kind's name for as long as the process lives."""

    @DBOS.workflow(name=f"{kind}_job", max_recovery_attempts=None)
    async def job(uid: str) -> None:
        await (await engine_of(kind)).run(lambda workflows: workflows.run_job(uid))

    @DBOS.workflow(name=f"{kind}_chunk", max_recovery_attempts=None)
    async def chunk(uid: str, phase: str, number: int) -> None:
        await (await engine_of(kind)).run(lambda workflows: workflows.run_chunks(uid, phase, [number]))

    # Of another name than a chunk's alone: a replica of the release before cannot run it, and is taken over from.
    @DBOS.workflow(name=f"{kind}_chunks", max_recovery_attempts=None)
    async def chunks(uid: str, phase: str, number: int, size: int) -> None:
        numbers = range(number * size, (number + 1) * size)
        await (await engine_of(kind)).run(lambda workflows: workflows.run_chunks(uid, phase, numbers))

    return job, chunk, chunks


async def engine_of(kind: str) -> Engine:
    """The engine of a kind. Waits for a kind that has not started while others have: DBOS recovers all at once."""
    workflow_id = str(DBOS.workflow_id)
    SHARED.waiting.add(workflow_id)
    try:
        while SHARED.engines and kind not in SHARED.engines:
            await SHARED.changed.wait(timeout_seconds=1.0)
    finally:
        SHARED.waiting.discard(workflow_id)
    if kind not in SHARED.engines:
        raise asyncio.CancelledError  # it stays pending, and begins again at the next start
    return SHARED.engines[kind]


def application() -> str:
    """The kind by which DBOS knows this process, whichever of several kinds launches it.

    It may never change: DBOS ties a queue to the application that registered it first.
    """
    return min(SHARED.kinds)


def version() -> str:
    """The version of this process's workflows: another one for each application that shares a database."""
    name = application()
    return WORKFLOW_VERSION if name == OLDEST else f"{name}-{WORKFLOW_VERSION}"
