"""Refinement, critique, judge and training in one process, which answer at once: `python -m benchmarks.null_models`."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import ClassVar

from benchmarks.null_services import Behaviour, NullTraining, add_models, add_training
from services.runtime.server import Server, run


@dataclass(frozen=True)
class NullConfig:
    """Nothing to set: the server's own settings say where it listens."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_NULL_"


@contextlib.asynccontextmanager
async def wire(server: Server, config: NullConfig) -> AsyncIterator[None]:
    """Adds all of them to a server."""
    behaviour = Behaviour(log=False)
    training = NullTraining(behaviour)
    add_models(server, behaviour)
    add_training(server, training)
    try:
        yield
    finally:
        await training.close()


if __name__ == "__main__":
    run("null-models", NullConfig, wire)
