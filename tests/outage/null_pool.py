"""The model services in a process of their own, with null models: `python -m tests.outage.null_pool`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar

from benchmarks.null_services import Behaviour, add_models
from services.runtime.server import Server, run


@dataclass(frozen=True)
class NullPoolConfig:
    """How long a call takes."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_NULL_"

    delay_seconds: float = 0.4


@asynccontextmanager
async def wire(server: Server, config: NullPoolConfig) -> AsyncIterator[None]:
    """Adds refinement, critique and judge to a server."""
    add_models(server, Behaviour(log=False, delay_seconds=config.delay_seconds))
    yield


if __name__ == "__main__":
    run("pool", NullPoolConfig, wire)
