"""The critique service's settings, read once from the environment (`OMNIALIGN_CRITIQUE_*`), and its wiring."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar

from omnialign.v1 import critique_service_pb2, critique_service_pb2_grpc
from services.critique.servicer import Critic, CritiqueServicer
from services.inference.config import ModelServiceConfig
from services.inference.engine import Engine
from services.inference.factory import open_loop
from services.runtime.server import Server, run

FULL_NAME = critique_service_pb2.DESCRIPTOR.services_by_name["CritiqueService"].full_name


@dataclass(frozen=True)
class CritiqueConfig(ModelServiceConfig):
    """The settings that every model service has."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_CRITIQUE_"


@asynccontextmanager
async def wire(server: Server, config: CritiqueConfig, *, engine: Engine | None = None) -> AsyncIterator[None]:
    """Adds the service to a server: on `engine`, or on an engine of its own if that is None."""
    async with open_loop(server, config, engine=engine) as loop:
        servicer = CritiqueServicer(Critic(loop))
        server.add(critique_service_pb2_grpc.add_CritiqueServiceServicer_to_server, servicer, FULL_NAME)
        yield


def main() -> None:
    """Runs the service until SIGTERM."""
    run("critique", CritiqueConfig, wire)


if __name__ == "__main__":
    main()
