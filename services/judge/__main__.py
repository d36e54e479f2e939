"""Wires the judge service."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from omnialign.v1 import judge_service_pb2, judge_service_pb2_grpc
from services.inference.engine import Engine
from services.inference.factory import open_loop
from services.judge.config import JudgeConfig
from services.judge.judge import Judge
from services.judge.servicer import JudgeServicer
from services.runtime.server import Server, run

FULL_NAME = judge_service_pb2.DESCRIPTOR.services_by_name["JudgeService"].full_name


@asynccontextmanager
async def wire(server: Server, config: JudgeConfig, *, engine: Engine | None = None) -> AsyncIterator[None]:
    """Adds the service to a server, on `engine` or on an engine of its own for None."""
    async with open_loop(server, config, engine=engine) as loop:
        servicer = JudgeServicer(Judge(loop, config))
        server.add(judge_service_pb2_grpc.add_JudgeServiceServicer_to_server, servicer, FULL_NAME)
        yield


def main() -> None:
    """Runs the service until SIGTERM."""
    run("judge", JudgeConfig, wire)


if __name__ == "__main__":
    main()
