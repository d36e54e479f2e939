"""A stack to be killed: alignment, evaluation and data services, with null models that take a while, in one process.

python -m tests.chaos.null_stack ROOT PORT
"""

import asyncio
import sys
from pathlib import Path

from benchmarks.null_services import Behaviour, NullTraining, add_models, add_training
from services.alignment.__main__ import AlignmentConfig
from services.alignment.__main__ import wire as wire_alignment
from services.data.__main__ import wire as wire_data
from services.data.config import DataConfig
from services.evaluation.__main__ import EvaluationConfig
from services.evaluation.__main__ import wire as wire_evaluation
from services.runtime.config import ServerConfig
from services.runtime.server import Server

DELAY_SECONDS = 0.15
TRAINING_STEPS = 12


async def serve(root: Path, port: int) -> None:
    """Serves until killed."""
    behaviour = Behaviour(log=False, delay_seconds=DELAY_SECONDS, training_steps=TRAINING_STEPS)
    server = Server(ServerConfig(port=port, reflection=False), name="chaos")
    address = server.bind()
    add_models(server, behaviour)
    add_training(server, NullTraining(behaviour))
    config = AlignmentConfig(
        root=root / "alignment",
        data_address=address,
        refinement_address=address,
        critique_address=address,
        judge_address=address,
        training_address=address,
        chunks_per_job=2,
        active_steps=2,
    )
    evaluation = EvaluationConfig(
        root=root / "evaluation",
        workflow_database_url=config.workflows_url,
        executor_id=config.executor_id,
        data_address=address,
        refinement_address=address,
        judge_address=address,
        chunks_per_job=2,
        active_steps=2,
    )
    async with (
        wire_data(server, DataConfig(root=root / "data")),
        wire_alignment(server, config),
        wire_evaluation(server, evaluation),
    ):
        await server.start()
        server.set_serving()
        await server.serve_until_signal()


if __name__ == "__main__":
    asyncio.run(serve(Path(sys.argv[1]), int(sys.argv[2])))
