"""The gate of a job, over real servers: calibrated on held-out pairs, or by the judge's words with the reason."""

import asyncio
import json
import random
from collections.abc import Callable

import pytest

from omnialign.content import text_of
from omnialign.v1 import alignment_service_pb2, record_pb2
from services.alignment import gate
from services.alignment.calibration import MIN_PAIRS
from services.alignment.job import Spec, with_defaults
from services.pipeline.planning import subset
from tests.service_stack import SECONDS, Job, ServiceStack, stage_status

StageStatus = alignment_service_pb2.StageStatus
Gate = alignment_service_pb2.GateCalibration
ANNOTATED = 400
HELD_OUT = 60


def knowing(record_id: str) -> tuple[float, float]:
    """Margins of a judge that knows much: right in nine of ten annotated pairs, the surer the oftener."""
    draw = random.Random(record_id)
    size = abs(draw.gauss(0, 3))
    margin = size if draw.random() < 1 / (1 + 2.7**-size) else -size
    return margin + 1, margin - 1


async def calibrated(stack: ServiceStack, **fields: object) -> Job:
    """A job with enough annotated pairs, once it has ended."""
    return await stack.end_of((await stack.submit(**{"annotated": ANNOTATED, "chunk_size": 64, **fields})).name)


async def test_held_out_pairs_calibrate_the_gate_and_the_judge_does_not_learn_from_them(stack: ServiceStack) -> None:
    stack.behaviour.margins = knowing
    job = await calibrated(stack, gate_precision=0.8)
    assert job.state == Job.STATE_SUCCEEDED, job.error
    compared = await stack.records(job, "calibration")
    assert len(compared) == HELD_OUT == job.gate.pairs
    learnt = {record.id for record in await stack.records(job, "judgement")}
    assert len(learnt) == ANNOTATED - HELD_OUT
    assert not learnt & {record.id for record in compared}
    specs = {name.rpartition("-")[2]: training.spec for name, training in stack.training.jobs.items()}
    assert specs["judge"].dataset.endswith("-judgement/versions/1")
    # In each the candidate is the response that people preferred.
    assert {text_of(record.responses[1].content).split()[0] for record in compared} == {"good", "bad"}
    assert {record.preference.preferred for record in compared} == {2}
    status = stage_status(job, "calibrate")
    assert (status.state, status.completed, status.total) == (StageStatus.STATE_DONE, HELD_OUT, HELD_OUT)
    assert job.gate.rule == Gate.RULE_PROBABILITY
    assert (job.gate.reason, job.gate.precision) == ("", 0.8)
    assert job.gate.slope > 0
    assert 0.5 < job.gate.threshold < 1
    assert job.gate.by_words.share == 1
    assert sum(one.count for one in job.gate.reliability) == 2 * HELD_OUT


async def test_the_probability_decides_and_the_record_keeps_it(stack: ServiceStack) -> None:
    margins = {"0": (9.0, 9.0), "1": (-9.0, -9.0), "2": (4.0, -4.0), "3": (-1.0, 12.0)}
    stack.behaviour.margins = lambda i: margins.get(i[-1], (9.0, 9.0)) if i.startswith("prompt") else knowing(i)
    stack.behaviour.verdict = lambda i: record_pb2.VERDICT_ABSTAIN if i == "prompt-004" else record_pb2.VERDICT_TIE
    stack.behaviour.unchanged = lambda i: i == "prompt-005"
    job = await calibrated(stack, gate_precision=0.8, prompts=7)
    assert job.state == Job.STATE_SUCCEEDED, job.error
    found = {record.id[-1]: record.comparison for record in await stack.records(job, "verify")}
    assert {i: c.verdict for i, c in found.items()} == {
        "0": record_pb2.VERDICT_WIN,
        "1": record_pb2.VERDICT_LOSS,
        "2": record_pb2.VERDICT_TIE,
        "3": record_pb2.VERDICT_WIN,  # the orders disagree, and one is far surer than the other
        "4": record_pb2.VERDICT_ABSTAIN,
        "5": record_pb2.VERDICT_TIE,
        "6": record_pb2.VERDICT_WIN,
    }
    assert (job.pairs.kept, job.pairs.tied, job.pairs.lost, job.pairs.abstained) == (3, 2, 1, 1)
    assert found["3"].probability == pytest.approx(1 / (1 + 2.718281828 ** (-5.5 * job.gate.slope)))
    assert (found["3"].forward_margin, found["3"].backward_margin) == (-1.0, 12.0)
    assert not found["4"].HasField("probability")
    assert not found["5"].HasField("probability")
    assert [record.id[-1] for record in await stack.records(job, "pairs")] == ["0", "3", "6"]


async def test_the_evaluation_is_by_words(stack: ServiceStack) -> None:
    stack.behaviour.margins = lambda i: (-9.0, -9.0) if i.startswith("test") else knowing(i)
    job = await calibrated(stack, gate_precision=0.8)
    assert {r.comparison.verdict for r in await stack.records(job, "evaluation")} == {record_pb2.VERDICT_WIN}
    assert not any(r.comparison.HasField("forward_margin") for r in await stack.records(job, "evaluation"))


@pytest.mark.parametrize(
    ("fields", "margins", "reason"),
    [
        ({"annotated": 6}, knowing, "TOO_FEW_PAIRS"),
        ({}, lambda i: None, "NO_MARGINS"),
        ({}, lambda i: (0.0, 0.0), "PRECISION_OUT_OF_REACH"),
        ({}, lambda i: (-2.0, -1.0), "PRECISION_OUT_OF_REACH"),
        ({}, lambda i: (2.0, 2.0) if int(i[-1]) > 1 else (-2.0, -2.0), "PRECISION_OUT_OF_REACH"),
    ],
)
async def test_without_a_calibration_the_words_decide_and_the_job_says_why(
    stack: ServiceStack, fields: dict[str, object], margins: Callable[[str], tuple[float, float] | None], reason: str
) -> None:
    stack.behaviour.margins = margins
    stack.behaviour.verdict = lambda i: record_pb2.VERDICT_TIE if i == "prompt-001" else record_pb2.VERDICT_WIN
    job = await calibrated(stack, **fields)
    assert job.state == Job.STATE_SUCCEEDED, job.error
    assert (job.gate.rule, job.gate.reason) == (Gate.RULE_WORDS, reason)
    assert job.gate.message.startswith("The judge's words decide at the gate: ")
    assert (job.pairs.kept, job.pairs.tied) == (9, 1)
    report = json.loads(await stack.alignment.get_alignment_report(job.name))
    assert (report["gate"]["rule"], report["gate"]["reason"]) == ("words", reason)
    assert not any(r.comparison.HasField("probability") for r in await stack.records(job, "verify"))


async def test_with_few_pairs_the_judge_learns_from_all_and_the_stage_is_left_out(stack: ServiceStack) -> None:
    job = await calibrated(stack, annotated=6)
    assert stage_status(job, "calibrate").state == StageStatus.STATE_SKIPPED
    specs = {name.rpartition("-")[2]: training.spec for name, training in stack.training.jobs.items()}
    assert list(specs["judge"].splits) == ["train"]
    assert any("6 annotated preferences" in warning for warning in job.preflight.warnings)


async def test_a_job_may_hold_nothing_out(stack: ServiceStack) -> None:
    job = await calibrated(stack, gate_holdout_fraction=0.0)
    assert job.state == Job.STATE_SUCCEEDED, job.error
    assert stage_status(job, "calibrate").state == StageStatus.STATE_SKIPPED
    assert job.gate.rule == Gate.RULE_UNSPECIFIED
    assert job.pairs.kept == 10


async def test_a_given_judge_is_calibrated_too(stack: ServiceStack) -> None:
    stack.behaviour.margins = knowing
    judge = await stack.register_model("judge")
    job = await calibrated(stack, judge_model=judge, gate_precision=0.8)
    assert job.gate.rule == Gate.RULE_PROBABILITY
    assert job.gate.pairs == HELD_OUT


async def test_the_report_shows_the_calibration(stack: ServiceStack) -> None:
    stack.behaviour.margins = knowing
    job = await calibrated(stack, gate_precision=0.8)
    found = json.loads(await stack.alignment.get_alignment_report(job.name))["gate"]
    assert found["rule"] == "probability"
    assert found["threshold"] == job.gate.threshold
    assert len(found["reliability"]) == len(job.gate.reliability)
    assert found["by_words"] == {"share": 1.0, "precision": 1.0}
    html = alignment_service_pb2.GetAlignmentReportRequest.FORMAT_HTML
    page = (await stack.alignment.get_alignment_report(job.name, html)).decode()
    assert "reliability" in page
    assert job.gate.message in page


async def test_a_job_is_cancelled_while_it_calibrates(stack: ServiceStack) -> None:
    entered, _ = stack.behaviour.hold("CompareResponses")
    job = await stack.submit(annotated=ANNOTATED, chunk_size=64)
    await asyncio.wait_for(entered.wait(), SECONDS)
    await stack.alignment.cancel_alignment_job(job.name)
    job = await asyncio.wait_for(stack.end_of(job.name), SECONDS)
    assert job.state == Job.STATE_CANCELLED
    assert job.gate.rule == Gate.RULE_UNSPECIFIED


async def test_a_restart_in_the_middle_of_it_calibrates_on_every_pair_once(stack: ServiceStack) -> None:
    stack.behaviour.margins = knowing
    undisturbed = await calibrated(stack, gate_precision=0.8)
    entered, release = stack.behaviour.hold("CompareResponses")
    job = await stack.submit("second", dataset=undisturbed.spec.dataset, gate_precision=0.8, chunk_size=16)
    await asyncio.wait_for(entered.wait(), SECONDS)
    await stack.stop("alignment")
    release.set()
    await stack.start("alignment")
    job = await stack.end_of(job.name)
    assert job.state == Job.STATE_SUCCEEDED, job.error
    assert len(await stack.records(job, "calibration")) == HELD_OUT
    assert job.gate == undisturbed.gate


@pytest.mark.parametrize("fraction", [0.1, 0.15, 0.5])
def test_the_held_out_pairs_are_the_same_in_any_order_and_few_enough(fraction: float) -> None:
    plan = with_defaults(Spec(seed=3, gate_holdout_fraction=fraction))
    ids = [f"r{i}" for i in range(2000)]

    def held_out(ids: list[str]) -> dict[str, str]:
        holdout = gate.Holdout(plan)
        for record_id in ids:
            holdout.add(record_id, "t2t")
        return holdout.close()

    held = held_out(ids)
    count = min(round(fraction * 2000), gate.MAX_PAIRS)
    assert (
        held
        == held_out(ids[::-1])
        == dict.fromkeys(sorted(set(ids) - set(subset(ids, seed=3, count=2000 - count))), "t2t")
    )
    assert len(held) == count
    assert held_out(ids[: MIN_PAIRS - 1]) == {}
