"""The refinement service's settings, read once from the environment (`OMNIALIGN_REFINEMENT_*`), and its wiring."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar

from omnialign.v1 import refinement_service_pb2, refinement_service_pb2_grpc
from services.inference.config import ModelServiceConfig
from services.inference.engine import Engine
from services.inference.factory import open_loop
from services.refinement.servicer import RefinementServicer
from services.refinement.writer import Writer
from services.runtime.server import Server, run

FULL_NAME = refinement_service_pb2.DESCRIPTOR.services_by_name["RefinementService"].full_name


@dataclass(frozen=True)
class RefinementConfig(ModelServiceConfig):
    """The settings that every model service has, and how to sample when a request does not say."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_REFINEMENT_"

    max_new_tokens: int = 2048
    """Bound of new tokens for requests that set none."""
    temperature: float = 1.0
    """Temperature of requests without sampling parameters; in those that have some, 0 is greedy."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Numbers out of range."""
        yield from super().problems()
        if not 0 <= self.temperature <= 10:
            yield "temperature", "must be between 0 and 10"


@asynccontextmanager
async def wire(server: Server, config: RefinementConfig, *, engine: Engine | None = None) -> AsyncIterator[None]:
    """Adds the service to a server: on `engine`, or on an engine of its own if that is None."""
    async with open_loop(server, config, engine=engine) as loop:
        servicer = RefinementServicer(Writer(loop, temperature=config.temperature))
        server.add(refinement_service_pb2_grpc.add_RefinementServiceServicer_to_server, servicer, FULL_NAME)
        yield


def main() -> None:
    """Runs the service until SIGTERM."""
    run("refinement", RefinementConfig, wire)


if __name__ == "__main__":
    main()
