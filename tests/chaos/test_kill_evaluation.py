"""SIGKILL at random moments of an evaluation: every item once, and the same scores as without."""

import os
import random
from pathlib import Path

import pytest

from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.v1 import evaluation_service_pb2, generation_pb2, record_pb2
from tests.chaos.stack_process import StackProcess

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

SEED = int(os.environ.get("OMNIALIGN_CHAOS_SEED", "7"))
COMMAND = ("-m", "tests.chaos.null_stack", "{root}", "{port}")
ITEMS, KILLS = 40, 5
CATEGORIES = ("perception", "reasoning", "instruction_following", "safety")

Evaluation = evaluation_service_pb2.Evaluation


async def submit(client: AsyncClient) -> Evaluation:
    """Two models on two benchmarks, in small chunks."""
    records = []
    for number in range(ITEMS):
        record = record_pb2.Record(
            id=f"item-{number:02d}", subtask="t2t", split="test", prompt=content(f"Say {number}")
        )
        record.benchmark_item.category = CATEGORIES[number % 4]
        record.benchmark_item.references.add(answer=str(number))
        records.append(record)
    dataset = await client.create_dataset("items")
    await client.append_records(dataset.name, records)
    version = (await client.commit_version(dataset.name)).name
    judge = evaluation_service_pb2.BenchmarkJudge(model="file:///judge")
    benchmarks = [
        evaluation_service_pb2.Benchmark(name=name, dataset=version, judges=[judge]) for name in ("amu", "pairwise")
    ]
    spec = evaluation_service_pb2.EvaluationSpec(
        models=["file:///one", "file:///second"],
        benchmarks=benchmarks,
        seed=3,
        chunk_size=4,
        sampling=generation_pb2.SamplingParams(deterministic=True),
    )
    return await client.create_evaluation("chaos", spec)


async def end_of(stack: StackProcess, evaluation: Evaluation) -> Evaluation:
    async with AsyncClient(stack.address) as client:
        async for event in client.watch_evaluation(evaluation.name):
            evaluation = event.evaluation
    assert evaluation.state == Evaluation.STATE_SUCCEEDED, evaluation.error
    return evaluation


async def progressed(stack: StackProcess, evaluation: Evaluation, share: float) -> None:
    """Returns once this share of the records is through."""
    async with AsyncClient(stack.address) as client:
        async for event in client.watch_evaluation(evaluation.name):
            stages = [s for s in event.evaluation.stages if s.stage in ("answer", "score")]
            # Twice the answers of two models: those to judge, and half as many pairs.
            if sum(s.completed for s in stages) >= share * 7 * ITEMS:
                return


async def ids_of(stack: StackProcess, evaluation: Evaluation, purpose: str) -> list[str]:
    name = evaluation.name.replace("evaluations", "datasets") + f"-{purpose}"
    async with AsyncClient(stack.address) as client:
        return [record.id async for record in client.stream_records(name)]


async def test_an_evaluation_that_is_killed_five_times_has_the_same_scores(tmp_path: Path) -> None:
    draw, found = random.Random(SEED), []
    for name, kills in (("calm", 0), ("killed", KILLS)):
        stack = StackProcess(tmp_path / name, COMMAND)
        await stack.start()
        try:
            async with AsyncClient(stack.address) as client:
                evaluation = await submit(client)
            for share in sorted(draw.uniform(0.02, 0.9) for _ in range(kills)):
                await progressed(stack, evaluation, share)
                stack.kill()
                await stack.start()
            done = await end_of(stack, evaluation)
            tables = {purpose: await ids_of(stack, done, purpose) for purpose in ("answers", "tasks", "scores")}
            assert all(len(ids) == len(set(ids)) for ids in tables.values())
            assert [len(ids) for ids in tables.values()] == [4 * ITEMS, 3 * ITEMS, 3 * ITEMS]
            found.append(([score.SerializeToString() for score in done.scores], tables))
        finally:
            stack.kill()
    assert found[0] == found[1]
