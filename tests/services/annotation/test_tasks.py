"""Tasks as annotators have them: leases, drafts, submissions."""

import asyncio
import uuid

import pytest

from omnialign.errors import Aborted, FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from omnialign.v1.annotation_pb2 import Annotation
from omnialign.v1.annotation_service_pb2 import ListItemsRequest, Task
from omnialign.v1.record_pb2 import Feedback, Mark, Region, TimeSpan
from tests.services.annotation.conftest import LEASE_SECONDS, Stack, filled, media_pair, pair


async def test_an_annotator_holds_one_seat_until_it_is_submitted(stack):
    campaign = await stack.campaign([pair(1), pair(2)])
    first = await stack.take(campaign, "ann")
    assert (await stack.take(campaign, "ann")).name == first.name
    assert (await stack.take(campaign, "bob")).name != first.name
    answer = await stack.client.lease_task(campaign.name, annotator="cas")
    assert not answer.HasField("task")
    assert answer.held_by_others_count == 2


async def test_nobody_gets_two_seats_of_one_pair(stack):
    campaign = await stack.campaign([pair(1)], overlap=2)
    await stack.annotate(campaign, "ann")
    assert not (await stack.client.lease_task(campaign.name, annotator="ann")).HasField("task")
    assert (await stack.take(campaign, "bob")).record.id == "pair-001"


async def test_a_lease_that_runs_out_goes_to_the_next_and_the_draft_stays_with_its_writer(stack):
    campaign = await stack.campaign([pair(1)])
    task = await stack.take(campaign, "ann")
    draft = Annotation(reason="half a thought")
    saved = await stack.client.save_draft(task.name, draft, revision=0, annotator="ann")
    assert (saved.state, saved.revision) == (Task.STATE_LEASED, 1)
    stack.clock.advance(LEASE_SECONDS + 1)
    other = await stack.take(campaign, "bob")
    assert (other.name, other.annotation) == (task.name, Annotation())
    # What ann writes on is kept, and not submitted.
    lost = await stack.client.save_draft(task.name, Annotation(reason="a whole thought"), revision=1, annotator="ann")
    assert (lost.state, lost.revision) == (Task.STATE_LOST, 2)
    with pytest.raises(FailedPrecondition) as caught:
        await stack.client.submit_task(task.name, filled(task.rubric), revision=2, annotator="ann")
    assert caught.value.reason == "LEASE_LOST"
    await stack.client.skip_task(other.name, "not mine", annotator="bob")
    back = await stack.take(campaign, "ann")
    assert (back.annotation, back.revision) == (filled(task.rubric), 3)
    done = await stack.client.submit_task(back.name, back.annotation, revision=3, annotator="ann")
    assert done.state == Task.STATE_SUBMITTED


async def test_a_seat_that_nobody_took_meanwhile_is_still_its_annotators(stack):
    campaign = await stack.campaign([pair(1)])
    task = await stack.take(campaign, "ann")
    stack.clock.advance(100 * LEASE_SECONDS)
    done = await stack.client.submit_task(task.name, filled(task.rubric), revision=0, annotator="ann")
    assert done.state == Task.STATE_SUBMITTED


async def test_saving_renews_the_lease(stack):
    campaign = await stack.campaign([pair(1)])
    task = await stack.take(campaign, "ann")
    for revision in range(5):
        stack.clock.advance(0.9 * LEASE_SECONDS)
        draft = Annotation(reason=f"{revision}")
        task = await stack.client.save_draft(task.name, draft, revision=revision, annotator="ann")
    assert not (await stack.client.lease_task(campaign.name, annotator="bob")).HasField("task")


async def test_two_windows_of_one_person_cannot_overwrite_each_other(stack):
    campaign = await stack.campaign([pair(1)])
    task = await stack.take(campaign, "ann")
    await stack.client.save_draft(task.name, Annotation(reason="left"), revision=0, annotator="ann")
    for stale in (
        stack.client.save_draft(task.name, Annotation(reason="right"), revision=0, annotator="ann"),
        stack.client.submit_task(task.name, filled(task.rubric), revision=0, annotator="ann"),
    ):
        with pytest.raises(Aborted) as caught:
            await stale
        assert (caught.value.reason, caught.value.metadata["revision"]) == ("DRAFT_STALE", "1")
    # The same draft twice is a repetition, as after an answer that was lost.
    again = await stack.client.save_draft(task.name, Annotation(reason="left"), revision=0, annotator="ann")
    assert again.revision == 1


async def test_a_submission_counts_once_and_is_final(stack):
    campaign = await stack.campaign([pair(1), pair(2)])
    task, request_id = await stack.take(campaign, "ann"), str(uuid.uuid4())
    annotation = filled(task.rubric)
    first = await stack.client.submit_task(task.name, annotation, revision=0, annotator="ann", request_id=request_id)
    for again in (request_id, ""):
        repeated = await stack.client.submit_task(task.name, annotation, revision=0, annotator="ann", request_id=again)
        assert repeated == first
    other = filled(task.rubric, preferred=2)
    for changed, error, reason in (
        (request_id, InvalidArgument, "REQUEST_ID_REUSED"),
        ("", FailedPrecondition, "ALREADY_SUBMITTED"),
    ):
        with pytest.raises(error) as caught:
            await stack.client.submit_task(task.name, other, revision=1, annotator="ann", request_id=changed)
        assert caught.value.reason == reason
    for late in (
        stack.client.save_draft(task.name, other, revision=1, annotator="ann"),
        stack.client.skip_task(task.name, "changed my mind", annotator="ann"),
    ):
        with pytest.raises(FailedPrecondition) as caught:
            await late
        assert caught.value.reason == "TASK_DONE"
    assert (await stack.client.get_campaign(campaign.name)).progress.submitted_count == 1


async def test_a_submission_whose_answer_was_lost_in_a_restart_is_repeated_with_its_request_id(stack):
    campaign = await stack.campaign([pair(1)])
    task, request_id = await stack.take(campaign, "ann"), str(uuid.uuid4())
    annotation = filled(task.rubric)
    await stack.client.submit_task(task.name, annotation, revision=0, annotator="ann", request_id=request_id)
    await stack.stop()
    await stack.start()
    again = await stack.client.submit_task(task.name, annotation, revision=0, annotator="ann", request_id=request_id)
    assert again.state == Task.STATE_SUBMITTED
    assert (await stack.client.get_campaign(campaign.name)).progress.submitted_count == 1


async def test_a_draft_and_its_lease_survive_a_restart(stack):
    campaign = await stack.campaign([pair(1)])
    task = await stack.take(campaign, "ann")
    await stack.client.save_draft(task.name, Annotation(reason="سلام 👋"), revision=0, annotator="ann")
    await stack.stop()
    await stack.start()
    back = await stack.take(campaign, "ann")
    assert (back.name, back.annotation.reason, back.revision) == (task.name, "سلام 👋", 1)


async def test_a_skipped_pair_goes_to_others_and_a_flagged_one_to_nobody(stack):
    campaign = await stack.campaign([pair(1), pair(2)], overlap=2)
    task = await stack.take(campaign, "ann")
    skipped = await stack.client.skip_task(task.name, "I know the author", annotator="ann")
    assert (skipped.state, skipped.reason) == (Task.STATE_SKIPPED, "I know the author")
    flagged = await stack.take(campaign, "ann")
    assert flagged.record.id == "pair-002"
    await stack.client.flag_task(flagged.name, "private data", annotator="ann")
    assert not (await stack.client.lease_task(campaign.name, annotator="ann")).HasField("task")
    assert (await stack.annotate(campaign, "bob")).name.endswith("/tasks/1-1")
    assert not (await stack.client.lease_task(campaign.name, annotator="bob")).HasField("task")
    only = ListItemsRequest.FILTER_FLAGGED
    (item,) = [item async for item in stack.client.list_items(campaign.name, only)]
    assert [(answer.annotator, answer.reason) for answer in item.answers] == [("ann", "private data")]


async def test_only_those_who_are_listed_may_annotate_and_nobody_what_they_were_never_given(stack):
    campaign = await stack.campaign([pair(1)], annotators=["ann", "bob"])
    with pytest.raises(PermissionDenied) as caught:
        await stack.client.lease_task(campaign.name, annotator="eve")
    assert caught.value.reason == "NOT_AN_ANNOTATOR"
    with pytest.raises(InvalidArgument) as missing:
        await stack.client.lease_task(campaign.name)
    assert missing.value.reason == "PERSON_MISSING"
    task = await stack.take(campaign, "ann")
    with pytest.raises(FailedPrecondition) as others:
        await stack.client.submit_task(task.name, filled(task.rubric), revision=0, annotator="bob")
    assert others.value.reason == "TASK_NOT_LEASED"
    with pytest.raises(NotFound) as absent:
        await stack.client.skip_task(f"{campaign.name}/tasks/99-1", "gone", annotator="ann")
    assert absent.value.reason == "ITEM_NOT_FOUND"


async def test_a_submission_must_be_complete_and_says_what_is_missing(stack):
    campaign = await stack.campaign([pair(1)])
    task = await stack.take(campaign, "ann")
    annotation = filled(task.rubric)
    del annotation.winners["safety"]
    del annotation.feedback[1].scores[0]
    annotation.feedback[0].critique = "  "
    annotation.preferred = 0
    with pytest.raises(InvalidArgument) as caught:
        await stack.client.submit_task(task.name, annotation, revision=0, annotator="ann")
    assert caught.value.reason == "ANNOTATION_INCOMPLETE"
    assert [field for field, _ in caught.value.violations] == [
        "annotation.preferred",
        "annotation.winners",
        "annotation.feedback[0].critique",
        "annotation.feedback[1].scores",
    ]


async def test_a_rationale_without_a_score_is_kept_and_not_submitted(stack):
    campaign = await stack.campaign([pair(1)])
    task = await stack.take(campaign, "ann")
    annotation = filled(task.rubric)
    (score,) = [score for score in annotation.feedback[1].scores if score.dimension == "clarity"]
    score.score, score.unscored, score.rationale = 0, True, "غامض 👎"
    await stack.client.save_draft(task.name, annotation, revision=0, annotator="ann")
    assert (await stack.take(campaign, "ann")).annotation == annotation
    with pytest.raises(InvalidArgument, match=r"lacks clarity \(it has only a rationale\)") as caught:
        await stack.client.submit_task(task.name, annotation, revision=1, annotator="ann")
    assert caught.value.reason == "ANNOTATION_INCOMPLETE"
    score.score = 2
    with pytest.raises(InvalidArgument, match="clarity is unscored, and has the score 2"):
        await stack.client.save_draft(task.name, annotation, revision=1, annotator="ann")
    score.unscored = False
    done = await stack.client.submit_task(task.name, annotation, revision=1, annotator="ann")
    assert done.state == Task.STATE_SUBMITTED


@pytest.mark.parametrize(
    ("subtask", "mark", "good"),
    [
        ("ti2t", Mark(in_prompt=True, part=0, region=Region(left=0.5, top=0, width=0.5, height=0.1)), True),
        ("ti2t", Mark(in_prompt=True, part=0, region=Region(left=0.6, top=0, width=0.5, height=0.1)), False),
        ("ti2t", Mark(in_prompt=True, part=1, region=Region(left=0, top=0, width=0.5, height=0.1)), False),
        ("ti2t", Mark(in_prompt=True, part=0, span=TimeSpan(start_seconds=0, end_seconds=1)), False),
        ("ti2t", Mark(part=3, region=Region(left=0, top=0, width=1, height=1)), False),
        ("t2v", Mark(part=0, span=TimeSpan(start_seconds=1.5, end_seconds=3600), dimension="safety"), True),
        ("t2v", Mark(part=0, span=TimeSpan(start_seconds=2, end_seconds=1)), False),
        ("t2v", Mark(part=0, span=TimeSpan(start_seconds=1, end_seconds=2), dimension="smell"), False),
    ],
)
async def test_a_mark_lies_within_a_medium_of_its_kind(stack, subtask, mark, good):
    campaign = await stack.campaign([media_pair(subtask)])
    task = await stack.take(campaign, "ann")
    draft = Annotation(feedback=[Feedback(marks=[mark])])
    if good:
        saved = await stack.client.save_draft(task.name, draft, revision=0, annotator="ann")
        assert saved.annotation == draft
        return
    with pytest.raises(InvalidArgument) as caught:
        await stack.client.save_draft(task.name, draft, revision=0, annotator="ann")
    assert caught.value.reason == "ANNOTATION_INVALID"
    assert caught.value.violations[0][0].startswith("annotation.feedback[0].marks[0]")


async def test_long_texts_are_taken_up_to_their_limit(stack):
    campaign = await stack.campaign([pair(1)])
    task = await stack.take(campaign, "ann")
    long = Annotation(feedback=[Feedback(critique="é" * 20_000)])
    saved = await stack.client.save_draft(task.name, long, revision=0, annotator="ann")
    assert saved.annotation == long
    long.feedback[0].critique += "é"
    with pytest.raises(InvalidArgument, match="20001 characters"):
        await stack.client.save_draft(task.name, long, revision=1, annotator="ann")


async def test_fifty_annotators_at_once_lose_and_double_nothing(tmp_path, database_url):
    stack = Stack(tmp_path, database_url=database_url, migrate_at_start=True)
    await stack.start()
    campaign = await stack.campaign([pair(number) for number in range(40)], overlap=3)

    async def work(annotator: str) -> list[str]:
        done = []
        while (answer := await stack.client.lease_task(campaign.name, annotator=annotator)).HasField("task"):
            task = answer.task
            saved = await stack.client.save_draft(task.name, Annotation(reason="…"), revision=0, annotator=annotator)
            annotation = filled(task.rubric, words=annotator)
            await stack.client.submit_task(task.name, annotation, revision=saved.revision, annotator=annotator)
            done.append(task.name)
        return done

    seats = [name for done in await asyncio.gather(*(work(f"person-{n}") for n in range(50))) for name in done]
    assert len(seats) == len(set(seats)) == 120
    items = [item async for item in stack.client.list_items(campaign.name)]
    assert all(len({answer.annotator for answer in item.answers}) == 3 for item in items)
    assert all(answer.annotation.reason == answer.annotator for item in items for answer in item.answers)
    await stack.stop()
