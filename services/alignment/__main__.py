"""The alignment service's settings, read once from the environment (`OMNIALIGN_ALIGNMENT_*`), and its wiring."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import ClassVar

from omnialign.v1 import alignment_service_pb2, alignment_service_pb2_grpc
from services.alignment.job import ALIGNMENT
from services.alignment.program import AlignmentProgram
from services.alignment.servicer import AlignmentServicer
from services.pipeline.config import PipelineConfig
from services.pipeline.service import open_pipeline
from services.runtime.server import Server, run
from services.sandbox.media import open_sandbox

FULL_NAME = alignment_service_pb2.DESCRIPTOR.services_by_name["AlignmentService"].full_name


@dataclass(frozen=True, kw_only=True)
class AlignmentConfig(PipelineConfig):
    """Where the other services are; the rest is the pipeline's."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_ALIGNMENT_"

    data_address: str
    """`host:port` of the DataService."""
    refinement_address: str
    """`host:port` of the RefinementService."""
    critique_address: str
    """`host:port` of the CritiqueService."""
    judge_address: str
    """`host:port` of the JudgeService."""
    training_address: str
    """`host:port` of the TrainingService."""
    executor_id: str = "alignment-0"
    """Identity of this replica. It must be the same after a restart, and differ between replicas."""

    @property
    def jobs_url(self) -> str:
        """URL of the job database in force; `alignment.db` in the root if none is given."""
        return self.database_url or f"sqlite:///{self.root / 'alignment.db'}"


@contextlib.asynccontextmanager
async def wire(server: Server, config: AlignmentConfig) -> AsyncIterator[None]:
    """Adds the service to a server, and works on the jobs until the block is left."""
    opening = open_pipeline(server, config, kind=ALIGNMENT, program=AlignmentProgram, full_name=FULL_NAME)
    with open_sandbox(server.registry):  # pre-flight and report decode media in its children
        async with opening as pipeline:
            server.add(
                alignment_service_pb2_grpc.add_AlignmentServiceServicer_to_server,
                AlignmentServicer(pipeline),
                FULL_NAME,
            )
            yield


def main() -> None:
    """Runs the service until it is told to stop."""
    run("alignment", AlignmentConfig, wire)


if __name__ == "__main__":
    main()
