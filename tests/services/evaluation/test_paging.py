"""Evaluations that are planned and read page by page."""

import pytest

from omnialign.content import content
from omnialign.v1 import evaluation_service_pb2, record_pb2
from services.evaluation import stages
from tests.evaluation_stack import Benchmark, Evaluation, EvaluationStack, Spec

NAMES = ("a", "a-1", "a.b", "a.pairwise.1", "b", "c", "c.pairwise.2.j1")
"""Ids that begin with others, so that answers to one item do not follow each other in order of id."""


async def test_answers_to_one_item_meet_whatever_page_it_is_on(
    stack: EvaluationStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    records = [record_pb2.Record(id=name, subtask="t2t", split="test", prompt=content("Go")) for name in NAMES]
    models = [await stack.register_model(name) for name in ("one", "two", "three")]
    judge = evaluation_service_pb2.BenchmarkJudge(model=models[0])
    benchmark = Benchmark(name="pairwise", dataset=await stack.store("names", records), judges=[judge])
    spec = Spec(models=models, benchmarks=[benchmark], chunk_size=2, fresh=True)
    whole = await stack.run(spec, "whole")
    assert whole.state == Evaluation.STATE_SUCCEEDED, whole.error
    monkeypatch.setattr(stages, "PAGE_ITEMS", 2)
    paged = await stack.run(spec, "paged")
    assert list(paged.scores) == list(whole.scores)
    scored = {record.id for record in await stack.rows(paged, "scores")}
    assert scored == {f"{name}.pairwise.{pair}.j1" for name in NAMES for pair in ("1-2", "1-3", "2-3")}


async def test_at_most_so_many_items_are_evaluated_and_a_larger_number_keeps_them(stack: EvaluationStack) -> None:
    spec = await stack.checkers_spec()
    evaluated = []
    for limit in (2, 4, 10):
        spec.max_items = limit
        done = await stack.run(spec, f"of-{limit}")
        assert done.manifest.benchmarks[0].items == done.preflight.answers == min(limit, 6)
        evaluated.append({record.labels["evaluation.item"] for record in await stack.rows(done, "scores")})
    assert [len(items) for items in evaluated] == [2, 4, 6]
    assert evaluated[0] < evaluated[1] < evaluated[2]
