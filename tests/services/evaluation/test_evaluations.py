"""Evaluations from the request to the scores, on real servers with null models."""

import json
import re

import pytest

from benchmarks.null_services import malformed, too_long
from omnialign.errors import FailedPrecondition, NotFound
from omnialign.v1 import evaluation_service_pb2
from tests.evaluation_stack import Evaluation, EvaluationStack, score_of

HTML = evaluation_service_pb2.GetEvaluationReportRequest.FORMAT_HTML


async def test_two_models_answer_the_same_items_with_the_same_seeds(stack: EvaluationStack) -> None:
    models = [await stack.register_model(name) for name in ("first", "second")]
    done = await stack.run(await stack.checkers_spec(*models))
    assert done.state == Evaluation.STATE_SUCCEEDED, done.error
    answers = await stack.rows(done, "answers")
    assert sorted(record.id for record in answers) == sorted(
        f"item-{i:02d}.checkers.{model}" for i in range(6) for model in (1, 2)
    )
    seeds: dict[str, set[int]] = {}
    for record in answers:
        seeds.setdefault(record.labels["evaluation.item"], set()).add(record.responses[0].generation.seed)
    assert all(len(found) == 1 for found in seeds.values())
    assert [len(await stack.rows(done, purpose)) for purpose in ("works", "tasks", "scores", "quarantine")] == [
        12,
        12,
        12,
        0,
    ]
    for model in models:
        correct = score_of(done, "correct", model=model)
        assert (correct.value, correct.judged, correct.abstained, correct.failed) == (0, 6, 0, 0)
    assert score_of(done, "share", model=models[0], group="t2t").value == score_of(done, "share", model=models[0]).value


async def test_a_manifest_says_what_made_the_scores(stack: EvaluationStack) -> None:
    done = await stack.run(await stack.checkers_spec())
    manifest = done.manifest
    assert len(manifest.models[0].sha256) == 64
    assert (manifest.benchmarks[0].items, manifest.seed) == (6, 7)
    assert manifest.benchmarks[0].benchmark.split == "test"
    assert len(manifest.benchmarks[0].items_sha256) == 64
    assert manifest.code_version


async def test_the_check_tells_what_there_is_to_do_and_creates_nothing(stack: EvaluationStack) -> None:
    checked = await stack.evaluation.create_evaluation("first", await stack.checkers_spec(), validate_only=True)
    assert (checked.preflight.answers, checked.preflight.judgements) == (6, 0)
    assert "intervals will be wide" in checked.preflight.warnings[0]
    assert [e async for e in stack.evaluation.list_evaluations()] == []


async def test_an_empty_answer_is_the_models_fault_and_a_broken_item_is_quarantined(stack: EvaluationStack) -> None:
    faults = {"item-00.checkers.1": malformed(), "item-01.checkers.1": too_long()}
    stack.behaviour.faults = lambda rpc, record_id: faults.get(record_id) if rpc == "Generate" else None
    done = await stack.run(await stack.checkers_spec())
    assert done.state == Evaluation.STATE_SUCCEEDED, done.error
    correct = score_of(done, "correct")
    assert (correct.judged, correct.failed) == (5, 1)
    (gone,) = await stack.rows(done, "quarantine")
    assert (gone.id, gone.quarantine.reason) == ("item-01.checkers.1", "PROMPT_TOO_LONG")


async def test_a_restart_in_the_middle_asks_again_only_for_what_is_missing(stack: EvaluationStack) -> None:
    spec = await stack.checkers_spec()
    entered, release = stack.behaviour.hold("Generate")
    submitted = await stack.evaluation.create_evaluation("first", spec)
    await entered.wait()
    release.set()
    await stack.until_evaluation(submitted.name, lambda e: any(s.completed for s in e.stages if s.stage == "answer"))
    await stack.stop("evaluation")
    await stack.start("evaluation")
    done = await stack.end_of_evaluation(submitted.name)
    assert done.state == Evaluation.STATE_SUCCEEDED, done.error
    assert len({r.id for r in await stack.rows(done, "scores")}) == len(await stack.rows(done, "scores")) == 6


async def test_cancelling_in_the_middle_ends_it_and_deleting_removes_it(stack: EvaluationStack) -> None:
    entered, release = stack.behaviour.hold("Generate")
    submitted = await stack.evaluation.create_evaluation("first", await stack.checkers_spec())
    await entered.wait()
    await stack.evaluation.cancel_evaluation(submitted.name)
    release.set()
    assert (await stack.end_of_evaluation(submitted.name)).state == Evaluation.STATE_CANCELLED
    await stack.evaluation.delete_evaluation(submitted.name)
    with pytest.raises(NotFound):
        await stack.evaluation.get_evaluation(submitted.name)


async def test_a_paused_evaluation_goes_on_when_it_is_resumed(stack: EvaluationStack) -> None:
    entered, release = stack.behaviour.hold("Generate")
    submitted = await stack.evaluation.create_evaluation("first", await stack.checkers_spec())
    await entered.wait()
    paused = await stack.evaluation.pause_evaluation(submitted.name)
    assert paused.state == Evaluation.STATE_PAUSED
    release.set()
    await stack.evaluation.resume_evaluation(submitted.name)
    assert (await stack.end_of_evaluation(submitted.name)).state == Evaluation.STATE_SUCCEEDED


async def test_a_report_holds_scores_counts_and_items(stack: EvaluationStack) -> None:
    done = await stack.run(await stack.checkers_spec())
    report = json.loads(await stack.evaluation.get_evaluation_report(done.name))
    measures = {(s["measure"], s["group"]) for s in report["scores"]}
    assert measures == {("correct", None), ("correct", "t2t"), ("share", None), ("share", "t2t")}
    assert len(report["items"]) == 6
    assert report["manifest"]["benchmarks"][0]["items"] == "6"


async def test_a_page_shows_scores_and_items_and_loads_nothing(stack: EvaluationStack) -> None:
    done = await stack.run(await stack.checkers_spec())
    html = (await stack.evaluation.get_evaluation_report(done.name, HTML)).decode()
    assert html.startswith("<!doctype html>")
    assert "default-src 'none'" in html
    assert "item-00" in html
    assert not re.findall(r"(?:src|href)=[\"'](?!data:|#)", html)


async def test_a_report_of_an_evaluation_that_did_not_succeed_is_refused(stack: EvaluationStack) -> None:
    entered, release = stack.behaviour.hold("Generate")
    submitted = await stack.evaluation.create_evaluation("first", await stack.checkers_spec())
    await entered.wait()
    with pytest.raises(FailedPrecondition, match="no report"):
        await stack.evaluation.get_evaluation_report(submitted.name)
    release.set()
