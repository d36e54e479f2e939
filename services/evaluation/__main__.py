"""The evaluation service's settings, read once from the environment (`OMNIALIGN_EVALUATION_*`), and its wiring."""

import contextlib
from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import ClassVar

from omnialign.v1 import evaluation_service_pb2, evaluation_service_pb2_grpc
from services.evaluation.job import EVALUATION, model_identity
from services.evaluation.program import EvaluationProgram
from services.evaluation.servicer import EvaluationServicer
from services.pipeline.config import PipelineConfig
from services.pipeline.kept_answers import Keeping
from services.pipeline.service import open_pipeline
from services.runtime.server import Server, run
from services.sandbox.media import open_sandbox

DAY_SECONDS = 86400.0
FULL_NAME = evaluation_service_pb2.DESCRIPTOR.services_by_name["EvaluationService"].full_name


@dataclass(frozen=True, kw_only=True)
class EvaluationConfig(PipelineConfig):
    """Where the other services are; the rest is the pipeline's."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_EVALUATION_"

    data_address: str
    """`host:port` of the DataService."""
    refinement_address: str
    """`host:port` of the RefinementService."""
    judge_address: str
    """`host:port` of the JudgeService."""
    executor_id: str = "evaluation-0"
    """Identity of this replica. It must be the same after a restart, and differ between replicas."""
    kept_answers_days: float = 30.0
    """How long the answers of models and judges are kept for later evaluations; 0 keeps none."""
    kept_answers_count: int = 500_000
    """How many answers are kept over all projects, about 2 KB each; the oldest go first."""

    @property
    def keeping(self) -> Keeping | None:
        """Which answers are kept; None for none."""
        if self.kept_answers_days <= 0 or self.kept_answers_count <= 0:
            return None
        return Keeping(
            seconds=self.kept_answers_days * DAY_SECONDS,
            count=self.kept_answers_count,
            identity=model_identity,
            is_fresh=lambda plan: bool(plan.fresh),
        )

    @property
    def jobs_url(self) -> str:
        """URL of the job database in force; `evaluation.db` in the root if none is given."""
        return self.database_url or f"sqlite:///{self.root / 'evaluation.db'}"


@contextlib.asynccontextmanager
async def wire(server: Server, config: EvaluationConfig) -> AsyncIterator[None]:
    """Adds the service to a server, and works on evaluations until the block is left."""
    opening = open_pipeline(
        server, config, kind=EVALUATION, program=EvaluationProgram, full_name=FULL_NAME, keeping=config.keeping
    )
    with open_sandbox(server.registry):  # the report decodes media in its children
        async with opening as pipeline:
            server.add(
                evaluation_service_pb2_grpc.add_EvaluationServiceServicer_to_server,
                EvaluationServicer(pipeline),
                FULL_NAME,
            )
            yield


def main() -> None:
    """Runs the service until it is told to stop."""
    run("evaluation", EvaluationConfig, wire)


if __name__ == "__main__":
    main()
