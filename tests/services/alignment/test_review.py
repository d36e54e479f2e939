"""People review pairs: the job waits for them, and goes on by what they decided."""

import asyncio

import pytest

from omnialign.content import content, text_of
from omnialign.errors import FailedPrecondition, InvalidArgument, NotFound
from omnialign.v1 import alignment_service_pb2, content_pb2
from tests.service_stack import SECONDS, Job, ServiceStack

PairReview = alignment_service_pb2.PairReview
ACCEPTED, REJECTED, EDITED = (
    PairReview.DECISION_ACCEPTED,
    PairReview.DECISION_REJECTED,
    PairReview.DECISION_EDITED,
)
Settings = alignment_service_pb2.ReviewSettings


async def waiting(stack: ServiceStack, **fields) -> tuple[Job, list[PairReview]]:
    """A job that waits for its review, and the pairs to review."""
    job = await stack.submit(**fields)
    paused = await asyncio.wait_for(stack.until(job.name, lambda job: job.state == Job.STATE_PAUSED), SECONDS)
    return paused, [review async for review in stack.alignment.list_pair_reviews(job.name)]


def trained_on(stack: ServiceStack, suffix: str = "") -> str:
    """The dataset that the policy of a round was trained on."""
    return str(stack.training.jobs[f"projects/default/trainingJobs/first-optimize{suffix}"].spec.dataset)


async def test_the_job_pauses_and_goes_on_after_the_last_decision_with_what_people_left(stack: ServiceStack) -> None:
    job, reviews = await waiting(stack, prompts=8, review=Settings(sample=0.5, min_agreement=0.5))
    (stage,) = [status for status in job.stages if status.stage == "review"]
    assert (stage.state, stage.completed, stage.total) == (stage.STATE_RUNNING, 0, 4)
    assert [(r.round, r.decision) for r in reviews] == [(1, 0)] * 4
    first, second, third, fourth = (review.record_id for review in reviews)

    await stack.alignment.review_pair(job.name, first, ACCEPTED)
    await stack.alignment.review_pair(job.name, second, REJECTED, reason="y* is about another picture")
    await stack.alignment.review_pair(job.name, third, EDITED, refinement=content("a better answer"))
    left = [r.record_id async for r in stack.alignment.list_pair_reviews(job.name, pending_only=True)]
    assert left == [fourth]
    assert (await stack.alignment.get_alignment_job(job.name)).state == Job.STATE_PAUSED
    await stack.alignment.review_pair(job.name, fourth, ACCEPTED)

    job = await asyncio.wait_for(stack.end_of(job.name), SECONDS)
    assert job.state == Job.STATE_SUCCEEDED, job.error
    (stage,) = [status for status in job.stages if status.stage == "review"]
    assert stage.state == stage.STATE_DONE
    expected = {"accepted": 2.0, "rejected": 1.0, "edited": 1.0, "reviewed": 4.0, "agreement": 0.5}
    assert dict(stage.metrics) == expected
    assert trained_on(stack) == f"{stage.dataset}/versions/1"
    pairs = {record.id: record for record in await stack.records(job, "reviewed")}
    assert len(pairs) == 7
    assert second not in pairs
    assert text_of(pairs[third].responses[1].content) == "a better answer"
    assert pairs[third].responses[1].source == "review"
    assert not pairs[third].HasField("comparison")
    assert {record.labels["review"] for record in pairs.values()} == {"accepted", "edited", ""}


async def test_a_decision_may_be_changed_until_the_last_one(stack: ServiceStack) -> None:
    job, reviews = await waiting(stack, prompts=4, review=Settings(sample=0.5))
    first, second = (review.record_id for review in reviews)
    await stack.alignment.review_pair(job.name, first, REJECTED)
    await stack.alignment.review_pair(job.name, first, ACCEPTED)
    await stack.alignment.review_pair(job.name, second, ACCEPTED)

    job = await asyncio.wait_for(stack.end_of(job.name), SECONDS)
    assert job.state == Job.STATE_SUCCEEDED, job.error
    assert len(await stack.records(job, "reviewed")) == 4
    with pytest.raises(FailedPrecondition) as caught:
        await stack.alignment.review_pair(job.name, first, REJECTED)
    assert caught.value.reason == "REVIEW_CLOSED"
    assert [r.decision async for r in stack.alignment.list_pair_reviews(job.name)] == [ACCEPTED, ACCEPTED]


async def test_the_job_fails_when_people_accept_too_few(stack: ServiceStack) -> None:
    job, reviews = await waiting(stack, prompts=8, review=Settings(sample=0.5))
    for review, decision in zip(reviews, (ACCEPTED, ACCEPTED, ACCEPTED, REJECTED), strict=True):
        await stack.alignment.review_pair(job.name, review.record_id, decision)

    job = await asyncio.wait_for(stack.end_of(job.name), SECONDS)
    assert job.state == Job.STATE_FAILED
    assert "75%" in job.error.message
    assert "80%" in job.error.message
    assert not any("optimize" in name for name in stack.training.jobs)


async def test_a_person_who_resumes_the_job_goes_on_with_the_decisions_that_there_are(stack: ServiceStack) -> None:
    job, reviews = await waiting(stack, prompts=8, review=Settings(sample=0.5))
    await stack.alignment.review_pair(job.name, reviews[0].record_id, ACCEPTED)
    await stack.alignment.resume_alignment_job(job.name)

    job = await asyncio.wait_for(stack.end_of(job.name), SECONDS)
    assert job.state == Job.STATE_SUCCEEDED, job.error
    pairs = await stack.records(job, "reviewed")
    assert len(pairs) == 8
    assert sum("review" in record.labels for record in pairs) == 1


async def test_a_service_that_restarts_during_the_review_forgets_no_decision(stack: ServiceStack) -> None:
    job, reviews = await waiting(stack, prompts=6, review=Settings(sample=0.5, min_agreement=0.0))
    await stack.alignment.review_pair(job.name, reviews[0].record_id, REJECTED)
    await stack.stop("alignment")
    await stack.start("alignment")
    # A watch finds the service again, however long its connection takes; a single call may be refused meanwhile.
    await asyncio.wait_for(stack.until(job.name, lambda job: job.state == Job.STATE_PAUSED), SECONDS)
    for review in reviews[1:]:
        await stack.alignment.review_pair(job.name, review.record_id, ACCEPTED)

    job = await asyncio.wait_for(stack.end_of(job.name), SECONDS)
    assert job.state == Job.STATE_SUCCEEDED, job.error
    assert reviews[0].record_id not in {record.id for record in await stack.records(job, "reviewed")}


async def test_every_round_has_its_own_review(stack: ServiceStack) -> None:
    job, (review,) = await waiting(stack, prompts=4, rounds=2, review=Settings(sample=0.1))
    await stack.alignment.review_pair(job.name, review.record_id, ACCEPTED)

    def waits_again(job: Job) -> bool:
        stages = {status.stage: status for status in job.stages}
        return job.state == Job.STATE_PAUSED and stages["review-2"].total == 1

    await asyncio.wait_for(stack.until(job.name, waits_again), SECONDS)
    with pytest.raises(FailedPrecondition):
        await stack.alignment.review_pair(job.name, review.record_id, REJECTED)  # of the first round
    (second,) = [r async for r in stack.alignment.list_pair_reviews(job.name, pending_only=True)]
    assert second.round == 2
    await stack.alignment.review_pair(job.name, second.record_id, ACCEPTED, number=2)

    job = await asyncio.wait_for(stack.end_of(job.name), SECONDS)
    assert job.state == Job.STATE_SUCCEEDED, job.error
    assert trained_on(stack, "-2").endswith("/first-reviewed-2/versions/1")


async def test_a_deleted_job_takes_its_reviews_along(stack: ServiceStack) -> None:
    job, _ = await waiting(stack, prompts=4, review=Settings(sample=0.5))
    await stack.alignment.cancel_alignment_job(job.name)
    await asyncio.wait_for(stack.end_of(job.name), SECONDS)
    await stack.alignment.delete_alignment_job(job.name)
    with pytest.raises(NotFound):
        _ = [review async for review in stack.alignment.list_pair_reviews(job.name)]


async def test_decisions_that_cannot_be_are_refused_by_name(stack: ServiceStack) -> None:
    job, reviews = await waiting(stack, prompts=4, review=Settings(sample=0.5))
    record_id = reviews[0].record_id
    missing = content_pb2.Media(
        modality=content_pb2.MODALITY_IMAGE, mime_type="image/png", sha256="0" * 64, size_bytes=1
    )
    for error, reason, decision, options in (
        (NotFound, "REVIEW_NOT_FOUND", ACCEPTED, {"record_id": "nobody"}),
        (NotFound, "REVIEW_NOT_FOUND", ACCEPTED, {"number": 3}),
        (InvalidArgument, "REVIEW_EDIT_EMPTY", EDITED, {}),
        (InvalidArgument, "REVIEW_EDIT_UNWANTED", ACCEPTED, {"refinement": content("better")}),
        (
            InvalidArgument,
            "MEDIA_NOT_FOUND",
            EDITED,
            {"refinement": content_pb2.Content(parts=[content_pb2.Part(media=missing)])},
        ),
    ):
        given = {"record_id": record_id, **options}
        with pytest.raises(error) as caught:
            await stack.alignment.review_pair(job.name, given.pop("record_id"), decision, **given)
        assert caught.value.reason == reason
    assert not any([r.decision async for r in stack.alignment.list_pair_reviews(job.name)])


async def test_a_review_of_pairs_that_nothing_is_trained_on_is_refused(stack: ServiceStack) -> None:
    optimization = alignment_service_pb2.Optimization(method="sdpo")
    with pytest.raises(InvalidArgument) as caught:
        await stack.submit(optimization=optimization, review=Settings())
    assert caught.value.reason == "REVIEW_WITHOUT_PAIRS"
