"""Wires the alignment service."""

import contextlib
from collections.abc import AsyncIterator

from omnialign.v1 import alignment_service_pb2, alignment_service_pb2_grpc
from services.alignment.config import AlignmentConfig
from services.alignment.job import ALIGNMENT
from services.alignment.program import AlignmentProgram
from services.alignment.servicer import AlignmentServicer
from services.pipeline.service import open_pipeline
from services.runtime.server import Server, run

FULL_NAME = alignment_service_pb2.DESCRIPTOR.services_by_name["AlignmentService"].full_name


@contextlib.asynccontextmanager
async def wire(server: Server, config: AlignmentConfig) -> AsyncIterator[None]:
    """Adds the service to a server, and works on the jobs until the block is left."""
    async with open_pipeline(server, config, kind=ALIGNMENT, program=AlignmentProgram, full_name=FULL_NAME) as pipeline:
        server.add(
            alignment_service_pb2_grpc.add_AlignmentServiceServicer_to_server, AlignmentServicer(pipeline), FULL_NAME
        )
        yield


def main() -> None:
    """Runs the service until it is told to stop."""
    run("alignment", AlignmentConfig, wire)


if __name__ == "__main__":
    main()
