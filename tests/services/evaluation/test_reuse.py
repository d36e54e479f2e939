"""A second evaluation of the same asks nobody, and comes to the same."""

from typing import Any

import pytest

from benchmarks.null_services import malformed
from omnialign.content import content
from omnialign.v1 import evaluation_service_pb2, record_pb2
from services.pipeline.kind import stage_of
from tests.evaluation_stack import Benchmark, Evaluation, EvaluationStack, Spec

Judge = evaluation_service_pb2.BenchmarkJudge


def items_of(name: str) -> list[record_pb2.Record]:
    """Four items that any of the benchmarks below can use."""
    records = []
    for number in range(4):
        record = record_pb2.Record(id=f"{name}-{number}", subtask="t2t", split="test", prompt=content(f"Say {number}"))
        record.benchmark_item.category = "perception"
        record.benchmark_item.references.add(answer="yes")
        record.benchmark_item.questions.add(id="q", question="Which?", choices=["one", "two"], correct=1)
        records.append(record)
    return records


async def everything(stack: EvaluationStack, **fields: Any) -> Spec:
    """Two models on benchmarks that make every kind of call there is: answers, ratings, comparisons and questions."""
    rated, compared = [await stack.store(name, items_of(name)) for name in ("rated", "compared")]
    models = [await stack.register_model(name) for name in ("base", "tuned")]
    judges = [Judge(model=await stack.register_model("judge"))]
    benchmarks = [
        Benchmark(name="amu", dataset=rated, judges=judges),
        Benchmark(name="pairwise", dataset=compared, judges=judges),
        Benchmark(name="multiple_choice", dataset=rated),
    ]
    return Spec(models=models, benchmarks=benchmarks, chunk_size=3, seed=7, **fields)


def reused(evaluation: Evaluation) -> tuple[int, int]:
    """How many answers and judgements nobody was asked for."""
    return stage_of(evaluation, "answer").reused, stage_of(evaluation, "score").reused


async def rows(stack: EvaluationStack, evaluation: Evaluation) -> dict[str, list[bytes]]:
    """All that an evaluation wrote."""
    purposes = ("answers", "scores", "quarantine")
    found = {purpose: await stack.rows(evaluation, purpose) for purpose in purposes}
    return {purpose: sorted(r.SerializeToString(deterministic=True) for r in some) for purpose, some in found.items()}


@pytest.mark.parametrize("is_deterministic", [False, True], ids=["sampled", "deterministic"])
async def test_a_second_run_asks_nobody_and_changes_nothing(stack: EvaluationStack, is_deterministic: bool) -> None:
    spec = await everything(stack)
    spec.sampling.deterministic = is_deterministic
    first = await stack.run(spec)
    assert first.state == Evaluation.STATE_SUCCEEDED, first.error
    assert reused(first) == (0, 0)
    num_asked = len(stack.behaviour.asked)
    second = await stack.run(spec, "second")
    assert second.state == Evaluation.STATE_SUCCEEDED, second.error
    assert len(stack.behaviour.asked) == num_asked
    assert reused(second) == (2 * 2 * 4, 2 * 4 + 4 + 2 * 4)
    assert [s.SerializeToString() for s in second.scores] == [s.SerializeToString() for s in first.scores]
    assert await rows(stack, second) == await rows(stack, first)
    assert second.manifest == first.manifest


async def test_a_fresh_run_asks_again(stack: EvaluationStack) -> None:
    spec = await everything(stack)
    await stack.run(spec)
    num_asked = len(stack.behaviour.asked)
    spec.fresh = True
    fresh = await stack.run(spec, "second")
    assert reused(fresh) == (0, 0)
    assert len(stack.behaviour.asked) == 2 * num_asked


async def test_only_what_is_new_is_asked_for(stack: EvaluationStack) -> None:
    spec = await everything(stack)
    await stack.run(spec)
    stack.behaviour.asked.clear()
    spec.models.append(await stack.register_model("third"))
    del spec.benchmarks[1:]
    more = await stack.run(spec, "second")
    assert reused(more) == (2 * 4, 2 * 4)
    assert len(stack.behaviour.asked) == 4 + 4
    assert all(".amu.3" in record_id for _, record_id in stack.behaviour.asked)


async def test_errors_and_abstentions_are_asked_for_again(stack: EvaluationStack) -> None:
    spec = await everything(stack)
    del spec.benchmarks[1:]
    stack.behaviour.faults = lambda rpc, i: malformed() if rpc == "Generate" and i == "rated-0.amu.1" else None
    stack.behaviour.abstains = lambda record_id: record_id == "rated-1.amu.2.j1"
    first = await stack.run(spec)
    assert stage_of(first, "score").abstained == 1
    stack.behaviour.faults = lambda rpc, i: None
    stack.behaviour.abstains = lambda record_id: False
    stack.behaviour.asked.clear()
    second = await stack.run(spec, "second")
    asked = {(rpc, record_id) for rpc, record_id in stack.behaviour.asked}
    assert asked == {
        ("Generate", "rated-0.amu.1"),
        ("ScoreUnderstanding", "rated-0.amu.1.j1"),
        ("ScoreUnderstanding", "rated-1.amu.2.j1"),
    }
    assert stage_of(second, "score").abstained == 0


async def test_a_folder_is_asked_every_time_for_its_files_may_change(stack: EvaluationStack) -> None:
    spec = await everything(stack)
    del spec.benchmarks[1:]
    spec.models[:] = [(stack.root / "models" / "base").as_uri()]
    for evaluation_id in ("first", "second"):
        found = await stack.run(spec, evaluation_id)
        assert found.state == Evaluation.STATE_SUCCEEDED, found.error
        assert reused(found)[0] == 0


async def test_nothing_is_kept_where_the_setting_says_so(stack: EvaluationStack) -> None:
    await stack.stop("evaluation")
    stack.settings["kept_answers_days"] = 0.0
    await stack.start("evaluation")
    spec = await everything(stack)
    await stack.run(spec)
    num_asked = len(stack.behaviour.asked)
    assert reused(await stack.run(spec, "second")) == (0, 0)
    assert len(stack.behaviour.asked) == 2 * num_asked
