"""Rounds: each begins with the policy of the one before, until the gate keeps too little."""

import asyncio
from collections import Counter

import pytest

from omnialign.errors import InvalidArgument
from omnialign.v1 import alignment_service_pb2, record_pb2
from services.alignment.report.statistics import rounds
from tests.service_stack import SECONDS, Job, ServiceStack

StageStatus = alignment_service_pb2.StageStatus


async def test_each_round_samples_and_trains_the_policy_of_the_one_before(stack: ServiceStack) -> None:
    job = await stack.end_of((await stack.submit(prompts=6, rounds=3)).name)
    assert job.state == Job.STATE_SUCCEEDED, job.error
    # Six annotated pairs calibrate nothing.
    assert {status.stage for status in job.stages if status.state != StageStatus.STATE_DONE} == {"calibrate"}
    assert [s.stage for s in job.stages if s.stage.startswith("sample")] == ["sample", "sample-2", "sample-3"]
    assert len(set(job.models.policies)) == 3
    assert job.models.aligned == job.models.policies[2]

    started_from = [job.models.base, *job.models.policies]
    seeds = set()
    for number, suffix in enumerate(("", "-2", "-3")):
        spec = stack.training.jobs[f"projects/default/trainingJobs/first-optimize{suffix}"].spec
        assert spec.base_model == started_from[number]
        assert spec.dataset.endswith(f"/first-pairs{suffix}/versions/1")
        for record in await stack.records(job, f"pairs{suffix}"):
            assert {r.generation.model for r in record.responses} == {started_from[number]}
            seeds.add((record.id, record.responses[0].generation.seed))
    assert len(seeds) == 3 * 6  # fresh samples in every round
    assert (job.pairs.tried, job.pairs.kept) == (18, 18)
    assert [(r["round"], r["tried"], r["kept"], r["pairs"]) for r in rounds(job)] == [(n, 6, 6, 6) for n in (1, 2, 3)]
    assert [r["policy"] for r in rounds(job)] == list(job.models.policies)


async def test_the_rounds_end_when_the_gate_keeps_too_little(stack: ServiceStack) -> None:
    asked: Counter[str] = Counter()

    def verdict(record_id: str) -> record_pb2.Verdict.ValueType:
        asked[record_id] += 1
        wins = asked[record_id] == 1 or record_id == "prompt-000"
        return record_pb2.VERDICT_WIN if wins else record_pb2.VERDICT_TIE

    stack.behaviour.verdict = verdict
    job = await stack.end_of((await stack.submit(prompts=8, rounds=4, min_yield=0.2)).name)
    assert job.state == Job.STATE_SUCCEEDED, job.error
    assert len(job.models.policies) == 1
    assert job.models.aligned == job.models.policies[0]
    skipped = [s.stage for s in job.stages if s.state == StageStatus.STATE_SKIPPED]
    assert skipped[:2] == ["calibrate", "optimize-2"]
    assert {"sample-3", "optimize-4"} <= set(skipped)
    assert not {"evaluate", "report", "pair-2"} & set(skipped)
    assert not any("optimize-2" in name for name in stack.training.jobs)
    assert [(r["yield"], r["pairs"]) for r in rounds(job)] == [(1.0, 8), (1 / 8, 0)]
    html = alignment_service_pb2.GetAlignmentReportRequest.FORMAT_HTML
    assert b"the yield was too small" in await stack.alignment.get_alignment_report(job.name, format=html)


@pytest.mark.parametrize("rpc", ["Generate", "CompareResponses", "train-2"])
async def test_a_restart_in_a_later_round_repeats_no_round(stack: ServiceStack, rpc: str) -> None:
    trains, go_on = stack.behaviour.hold("train-optimize")
    job = await stack.submit(prompts=6, rounds=2)
    await asyncio.wait_for(trains.wait(), SECONDS)
    entered, release = stack.behaviour.hold(rpc)
    go_on.set()
    await asyncio.wait_for(entered.wait(), SECONDS)
    await stack.stop("alignment")
    release.set()
    await stack.start("alignment")
    job = await asyncio.wait_for(stack.end_of(job.name), SECONDS)
    assert job.state == Job.STATE_SUCCEEDED, job.error
    assert len(job.models.policies) == 2
    assert len(stack.training.jobs) == 4  # the feedback model, the judge, and one for each round
    for purpose in ("sample", "verify", "sample-2", "verify-2"):
        assert [r.id for r in await stack.records(job, purpose)] == [f"prompt-{i:03d}" for i in range(6)]


async def test_rounds_on_annotated_pairs_are_refused_at_once(stack: ServiceStack) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await stack.submit(rounds=2, pair_source=alignment_service_pb2.PAIR_SOURCE_BINARY)
    assert caught.value.reason == "ROUNDS_NEED_FEEDBACK"
