"""Wires the refinement service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from omnialign.v1 import refinement_service_pb2, refinement_service_pb2_grpc
from services.inference.engine import Engine
from services.inference.factory import open_loop
from services.refinement.config import RefinementConfig
from services.refinement.servicer import RefinementServicer
from services.refinement.writer import Writer
from services.runtime.server import Server, run

FULL_NAME = refinement_service_pb2.DESCRIPTOR.services_by_name["RefinementService"].full_name


@asynccontextmanager
async def wire(server: Server, config: RefinementConfig, *, engine: Engine | None = None) -> AsyncIterator[None]:
    """Adds the service to a server, on `engine` or on an engine of its own for None."""
    async with open_loop(server, config, engine=engine) as loop:
        servicer = RefinementServicer(Writer(loop, config))
        server.add(refinement_service_pb2_grpc.add_RefinementServiceServicer_to_server, servicer, FULL_NAME)
        yield


def main() -> None:
    """Runs the service until SIGTERM."""
    run("refinement", RefinementConfig, wire)


if __name__ == "__main__":
    main()
