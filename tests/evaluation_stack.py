"""The evaluation service among real servers: the data service, and null models, each on its own port."""

import contextlib
import random
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

from examples.tinyworld.language import random_task
from omnialign.content import content
from omnialign.v1 import evaluation_service_pb2, record_pb2
from services.evaluation.__main__ import EvaluationConfig
from services.evaluation.__main__ import wire as wire_evaluation
from services.runtime.server import Server
from tests.processes import free_port
from tests.service_stack import ServiceStack

Evaluation = evaluation_service_pb2.Evaluation
Spec = evaluation_service_pb2.EvaluationSpec
Benchmark = evaluation_service_pb2.Benchmark


class EvaluationStack(ServiceStack):
    """The servers that an evaluation needs."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.ports = {name: free_port() for name in ("data", "models", "evaluation")}

    async def open(self) -> None:
        """Starts everything and opens a client to it."""
        await self.start()
        self.client = await self.connect("data")
        self.evaluation = await self.connect("evaluation")

    def evaluation_config(self) -> EvaluationConfig:
        """The evaluation service's configuration."""
        addresses = {
            f"{service}_address": f"127.0.0.1:{self.ports[server]}"
            for service, server in (("data", "data"), ("refinement", "models"), ("judge", "models"))
        }
        settings = {"retry_cap_seconds": 0.2, "queue_polling_seconds": 0.1, **self.settings}
        return EvaluationConfig(root=self.root / "evaluation", **addresses, **settings)

    @contextlib.asynccontextmanager
    async def _wired(self, name: str, server: Server) -> AsyncIterator[None]:
        wiring = (
            wire_evaluation(server, self.evaluation_config()) if name == "evaluation" else super()._wired(name, server)
        )
        async with wiring:
            yield

    # ---- what tests do with it ----

    async def store(self, dataset_id: str, records: list[record_pb2.Record]) -> str:
        """A dataset of these records; returns the name of its version."""
        dataset = await self.client.create_dataset(dataset_id)
        await self.client.append_records(dataset.name, records)
        return (await self.client.commit_version(dataset.name)).name

    async def checkable(self, count: int = 6, *, dataset_id: str = "tiny") -> str:
        """Items that the tiny world's checker can check."""
        draw = random.Random(3)
        return await self.store(
            dataset_id,
            [
                record_pb2.Record(
                    id=f"item-{i:02d}", subtask="t2t", split="test", prompt=content(random_task(draw, "t2t").text)
                )
                for i in range(count)
            ],
        )

    async def checkers_spec(self, *models: str, **fields: Any) -> Spec:
        """An evaluation by the tiny world's checker."""
        benchmark = Benchmark(name="checkers", dataset=await self.checkable(), checkers=["tinyworld"])
        named = models or (await self.register_model(),)
        return Spec(models=named, benchmarks=[benchmark], chunk_size=2, seed=7, **fields)

    async def run(self, spec: Spec, evaluation_id: str = "first") -> Evaluation:
        """Submits an evaluation and waits for its end."""
        submitted = await self.evaluation.create_evaluation(evaluation_id, spec)
        return await self.end_of_evaluation(submitted.name)

    async def end_of_evaluation(self, name: str) -> Evaluation:
        """Waits for an evaluation to end and returns it."""
        found = None
        async for event in self.evaluation.watch_evaluation(name):
            found = event.evaluation
        assert found is not None
        return found

    async def until_evaluation(self, name: str, wanted: Callable[[Evaluation], bool]) -> Evaluation:
        """The evaluation at the first event for which `wanted` is true."""
        async for event in self.evaluation.watch_evaluation(name):
            if wanted(event.evaluation):
                return event.evaluation
        raise AssertionError("the evaluation ended before")

    async def rows(self, evaluation: Evaluation, purpose: str) -> list[record_pb2.Record]:
        """The rows of one of an evaluation's tables."""
        name = evaluation.name.replace("evaluations", "datasets") + f"-{purpose}"
        return [record async for record in self.client.stream_records(name)]


def score_of(evaluation: Evaluation, measure: str, *, model: str = "", group: str = "") -> Any:
    """The one score of a measure."""
    (found,) = [
        score
        for score in evaluation.scores
        if score.measure == measure and score.group == group and model in ("", score.model)
    ]
    return found
