"""The pipeline from submission to report, over real servers."""

import json

import pytest

from benchmarks.null_services import malformed, too_long
from omnialign.content import text_of
from omnialign.errors import Internal
from omnialign.v1 import alignment_service_pb2, generation_pb2, record_pb2
from tests.service_stack import Job, ServiceStack, stage_status

StageStatus = alignment_service_pb2.StageStatus
PROMPTS = [f"prompt-{i:03d}" for i in range(10)]


async def test_a_job_runs_all_stages_and_counts_every_record(stack: ServiceStack) -> None:
    submitted = await stack.submit(prompts=10, test=4)
    job = await stack.end_of(submitted.name)

    assert job.state == Job.STATE_SUCCEEDED, job.error
    for name in ("sample", "critique", "refine", "verify"):
        status = stage_status(job, name)
        assert (status.state, status.completed, status.total) == (StageStatus.STATE_DONE, 10, 10), name
        assert [r.id for r in await stack.records(job, name)] == PROMPTS
    assert (job.pairs.tried, job.pairs.kept) == (10, 10)
    assert stage_status(job, "sample").tokens == 70
    assert stage_status(job, "verify").tokens == 140
    assert stage_status(job, "evaluate").completed == stage_status(job, "evaluate").total == 4
    # Six annotated pairs calibrate nothing.
    assert {status.stage for status in job.stages if status.state != StageStatus.STATE_DONE} == {"calibrate"}
    assert stage_status(job, "sample").elapsed.ToMilliseconds() > 0
    assert job.models.aligned.endswith("/models/first-aligned/versions/1")
    assert job.HasField("end_time")
    assert (job.preflight.prompts, job.preflight.evaluation_prompts, job.preflight.feedback_records) == (10, 4, 6)


async def test_a_record_grows_from_stage_to_stage(stack: ServiceStack) -> None:
    job = await stack.end_of((await stack.submit(prompts=1)).name)
    (record,) = await stack.records(job, "pairs")
    response, refinement = record.responses
    assert response.feedback.critique == "It could be better."
    assert text_of(refinement.content).startswith(text_of(response.content))
    assert record.comparison.verdict == record_pb2.VERDICT_WIN
    assert response.generation.seed not in (0, refinement.generation.seed)
    assert response.generation.model == job.models.base


async def test_the_media_policy_goes_into_every_request_and_training_job(stack: ServiceStack) -> None:
    policy = generation_pb2.MediaPolicy(max_frames=8, frames_per_second=2, use_damaged=True)
    job = await stack.end_of((await stack.submit(media_policy=policy)).name)
    assert job.state == Job.STATE_SUCCEEDED, job.error
    assert stack.behaviour.policies == dict.fromkeys(("Generate", "Refine", "Critique", "CompareResponses"), policy)
    assert [training.spec.media_policy for training in stack.training.jobs.values()] == [policy] * 3


async def test_the_training_jobs_get_what_the_spec_says(stack: ServiceStack) -> None:
    job = await stack.end_of((await stack.submit(annotated=6, feedback_fraction=0.5)).name)
    specs = {name.rpartition("-")[2]: training.spec for name, training in stack.training.jobs.items()}
    assert {purpose: (s.method, s.target) for purpose, s in specs.items()} == {
        "feedback": ("sft", "feedback"),
        "judge": ("sft", "judgement"),
        "optimize": ("dpo", ""),
    }
    assert len(await stack.records(job, "feedback")) == 3
    assert list(specs["judge"].splits) == ["train"]
    assert specs["optimize"].dataset.endswith("/first-pairs/versions/1")
    assert specs["feedback"].hyperparameters.seed != specs["judge"].hyperparameters.seed


async def test_a_larger_share_of_feedback_contains_the_smaller_one(stack: ServiceStack) -> None:
    dataset = await stack.make_dataset(annotated=8)
    shares = {}
    for job_id, fraction in (("quarter", 0.25), ("half", 0.5)):
        job = await stack.submit(job_id, dataset=dataset, feedback_fraction=fraction)
        shares[job_id] = {r.id for r in await stack.records(await stack.end_of(job.name), "feedback")}
    assert len(shares["quarter"]) == 2
    assert shares["quarter"] < shares["half"]


async def test_the_gate_counts_every_verdict(stack: ServiceStack) -> None:
    verdicts = {
        "0": record_pb2.VERDICT_WIN,
        "1": record_pb2.VERDICT_TIE,
        "2": record_pb2.VERDICT_LOSS,
        "3": record_pb2.VERDICT_ABSTAIN,
    }
    stack.behaviour.verdict = lambda record_id: verdicts.get(record_id[-1], record_pb2.VERDICT_WIN)
    stack.behaviour.unchanged = lambda record_id: record_id.endswith("4")
    stack.behaviour.abstains = lambda record_id: record_id.endswith("5")
    job = await stack.end_of((await stack.submit(prompts=10)).name)
    assert job.state == Job.STATE_SUCCEEDED, job.error
    pairs = job.pairs
    assert (pairs.tried, pairs.kept, pairs.tied, pairs.lost, pairs.abstained) == (10, 5, 2, 1, 2)
    assert stage_status(job, "critique").abstained == 1
    assert [r.id[-1] for r in await stack.records(job, "pairs")] == ["0", "6", "7", "8", "9"]
    asked = {record_id for rpc, record_id in stack.behaviour.asked if rpc == "CompareResponses"}
    assert "prompt-004" not in asked  # unchanged: a tie without asking
    (left,) = await stack.records(job, "quarantine")
    assert (left.id, left.quarantine.reason, left.labels["abstained"]) == ("prompt-005", "ANSWER_UNPARSABLE", "true")


async def test_records_at_fault_are_set_aside_and_the_job_goes_on(stack: ServiceStack) -> None:
    stack.behaviour.faults = lambda rpc, i: too_long() if (rpc, i) == ("Generate", "prompt-003") else None
    job = await stack.end_of((await stack.submit(prompts=10)).name)
    assert job.state == Job.STATE_SUCCEEDED, job.error
    assert (stage_status(job, "sample").completed, stage_status(job, "sample").quarantined) == (9, 1)
    assert stage_status(job, "verify").total == 9
    (left,) = await stack.records(job, "quarantine")
    assert (left.id, left.quarantine.stage, left.quarantine.reason) == ("prompt-003", "sample", "PROMPT_TOO_LONG")


async def test_too_many_records_at_fault_fail_the_job_by_name(stack: ServiceStack) -> None:
    stack.behaviour.faults = lambda rpc, i: malformed() if rpc == "Refine" and i[-1] in "0123" else None
    job = await stack.end_of((await stack.submit(prompts=10)).name)
    assert job.state == Job.STATE_FAILED
    assert "QUARANTINE_LIMIT" in str(job.error.details[0].value)
    assert "'refine'" in job.error.message
    assert "ANSWER_MALFORMED" in job.error.message
    assert stage_status(job, "refine").state == StageStatus.STATE_FAILED


async def test_a_job_without_a_kept_pair_fails(stack: ServiceStack) -> None:
    stack.behaviour.verdict = lambda _: record_pb2.VERDICT_LOSS
    job = await stack.end_of((await stack.submit(prompts=3)).name)
    assert job.state == Job.STATE_FAILED
    assert b"NO_PAIRS_KEPT" in job.error.details[0].value
    assert job.pairs.lost == 3


async def test_max_pairs_takes_the_same_pairs_every_time(stack: ServiceStack) -> None:
    dataset = await stack.make_dataset()
    taken = []
    for job_id in ("first", "second"):
        job = await stack.end_of((await stack.submit(job_id, dataset=dataset, max_pairs=4)).name)
        assert job.pairs.kept == 10
        taken.append([r.id for r in await stack.records(job, "pairs")])
    assert len(taken[0]) == 4
    assert taken[0] == taken[1]


async def test_binary_pairs_come_from_the_annotations_and_skip_the_loop(stack: ServiceStack) -> None:
    job = await stack.end_of(
        (await stack.submit(annotated=6, pair_source=alignment_service_pb2.PAIR_SOURCE_BINARY)).name
    )
    assert job.state == Job.STATE_SUCCEEDED, job.error
    assert all(
        stage_status(job, s).state == StageStatus.STATE_SKIPPED for s in ("sample", "critique", "refine", "verify")
    )
    pairs = await stack.records(job, "pairs")
    assert len(pairs) == 6
    first, second = ([text_of(r.content).split()[0] for r in pair.responses] for pair in pairs[:2])
    assert first == ["bad", "good"]  # preferred 1: the first answer, so it comes second
    assert second == ["good", "bad"]
    assert {name.rpartition("-")[2] for name in stack.training.jobs} == {"judge", "optimize"}


async def test_given_models_are_used_and_not_trained(stack: ServiceStack) -> None:
    critic = await stack.register_model("critic")
    job = await stack.end_of((await stack.submit(feedback_model=critic, judge_model=critic)).name)
    assert job.state == Job.STATE_SUCCEEDED, job.error
    assert stage_status(job, "feedback_modeling").state == StageStatus.STATE_SKIPPED
    assert (await stack.records(job, "critique"))[0].responses[0].feedback.generation.model == critic
    assert {name.rpartition("-")[2] for name in stack.training.jobs} == {"optimize"}


async def test_given_models_are_asked_in_the_form_that_the_spec_says(stack: ServiceStack) -> None:
    critic = await stack.register_model("critic")
    json_form = generation_pb2.ANSWER_FORM_JSON
    fields = {"feedback_model": critic, "judge_model": critic, "feedback_answer_form": json_form}
    job = await stack.end_of((await stack.submit(**fields)).name)
    assert job.state == Job.STATE_SUCCEEDED, job.error
    assert stack.behaviour.forms == {
        "Critique": json_form,
        "CompareResponses": generation_pb2.ANSWER_FORM_UNSPECIFIED,  # the judge service knows which the model wants
    }


async def test_a_failed_training_job_fails_the_job_with_its_reason(stack: ServiceStack) -> None:
    stack.behaviour.training_error = Internal("the loss is not a number", reason="LOSS_NAN")
    job = await stack.end_of((await stack.submit()).name)
    assert job.state == Job.STATE_FAILED
    assert b"TRAINING_FAILED" in job.error.details[0].value
    assert "the loss is not a number" in job.error.message
    assert stage_status(job, "feedback_modeling").state == StageStatus.STATE_FAILED


async def test_a_malformed_answer_in_the_evaluation_counts_as_wrong(stack: ServiceStack) -> None:
    stack.behaviour.faults = lambda rpc, i: malformed() if (rpc, i) == ("Generate", "test-001") else None
    job = await stack.end_of((await stack.submit(test=4)).name)
    assert job.state == Job.STATE_SUCCEEDED, job.error
    rows = await stack.records(job, "evaluation")
    assert len(rows) == 4
    assert [len(r.responses) for r in rows] == [2, 2, 2, 2]
    assert not rows[1].responses[0].content.parts
    assert rows[1].comparison.verdict == record_pb2.VERDICT_TIE  # neither model could answer
    assert rows[0].labels["held_out"] == "true"


async def test_the_report_is_there_once_the_job_succeeded(stack: ServiceStack) -> None:
    job = await stack.end_of((await stack.submit()).name)
    report = json.loads(await stack.alignment.get_alignment_report(job.name))
    assert report
    page = await stack.alignment.get_alignment_report(
        job.name, alignment_service_pb2.GetAlignmentReportRequest.FORMAT_HTML
    )
    assert page.lstrip().lower().startswith(b"<!doctype html")


async def test_lineage_leads_from_the_aligned_model_back_to_the_dataset(stack: ServiceStack) -> None:
    job = await stack.end_of((await stack.submit()).name)
    answer = await stack.client.get_lineage(job.models.aligned, direction=1)
    sources = {edge.source for edge in answer.edges}
    assert {job.spec.dataset, job.models.base, job.name} <= sources


@pytest.mark.parametrize("deterministic", [False, True])
async def test_two_jobs_with_one_seed_make_the_same_pairs(stack: ServiceStack, *, deterministic: bool) -> None:
    dataset = await stack.make_dataset()
    made = []
    for job_id in ("first", "second"):
        spec = await stack.spec(dataset=dataset)
        spec.sampling.deterministic = deterministic
        job = await stack.alignment.create_alignment_job(job_id, spec)
        pairs = await stack.records(await stack.end_of(job.name), "pairs")
        made.append([[text_of(r.content) for r in pair.responses] for pair in pairs])
    assert made[0] == made[1]
