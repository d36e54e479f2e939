"""The judge service's settings, read once from the environment (`OMNIALIGN_JUDGE_*`), and its wiring."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import ClassVar

from omnialign.v1 import judge_service_pb2, judge_service_pb2_grpc
from services.inference.config import ModelServiceConfig
from services.inference.engine import Engine
from services.inference.factory import open_loop
from services.judge.choices import Choices
from services.judge.judge import Judge
from services.judge.metrics import JudgeMetrics
from services.judge.ratings import Ratings
from services.judge.retries import Retries
from services.judge.rewards import Rewards
from services.judge.servicer import JudgeServicer
from services.runtime.server import Server, run

FULL_NAME = judge_service_pb2.DESCRIPTOR.services_by_name["JudgeService"].full_name


@dataclass(frozen=True)
class JudgeConfig(ModelServiceConfig):
    """The settings that every model service has."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_JUDGE_"


@asynccontextmanager
async def wire(server: Server, config: JudgeConfig, *, engine: Engine | None = None) -> AsyncIterator[None]:
    """Adds the service to a server: on `engine`, or on an engine of its own if that is None."""
    async with open_loop(server, config, engine=engine) as loop:
        retries = Retries(loop, JudgeMetrics(server.registry))
        servicer = JudgeServicer(Judge(loop), Ratings(retries), Choices(retries), Rewards(loop))
        server.add(judge_service_pb2_grpc.add_JudgeServiceServicer_to_server, servicer, FULL_NAME)
        yield


def main() -> None:
    """Runs the service until SIGTERM."""
    run("judge", JudgeConfig, wire)


if __name__ == "__main__":
    main()
