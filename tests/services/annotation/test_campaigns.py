"""Making campaigns: rubrics, priorities, quality items, and what cannot be annotated."""

import uuid

import pytest

from omnialign.content import content
from omnialign.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from omnialign.rubrics import rubric
from omnialign.v1.annotation_pb2 import Dimension, Rubric
from omnialign.v1.annotation_service_pb2 import Campaign, LabelMatch, Priority
from omnialign.v1.record_pb2 import Record
from tests.services.annotation.conftest import known, media_pair, pair

TWICE = Rubric(subtask="t2t", dimensions=[Dimension(name="humour"), Dimension(name="humour")])


async def test_a_campaign_has_a_seat_for_every_annotation_that_is_wanted(stack):
    alone = Record(id="alone", subtask="t2t", prompt=content("x"))
    campaign = await stack.campaign([pair(1), pair(2), alone], overlap=3)
    assert (campaign.progress.item_count, campaign.progress.seat_count, campaign.progress.left_out_count) == (2, 6, 1)
    assert [found.name async for found in stack.client.list_campaigns()] == [campaign.name]
    assert (await stack.client.get_campaign(campaign.name)) == campaign


async def test_each_subtask_gets_its_rubric_in_words_unless_one_is_given(stack):
    own = Rubric(subtask="t2t", dimensions=[Dimension(name="humour", description="Is it funny?")])
    campaign = await stack.campaign([media_pair("t2v"), pair(2), pair(3, subtask="ti2t")], rubrics=[own])
    names = {one.subtask: [dimension.name for dimension in one.dimensions] for one in campaign.rubrics}
    assert names == {
        "t2t": ["humour"],
        "t2v": [*rubric("t2v"), "video_objective_reality"],
        "ti2t": list(rubric("ti2t")),
    }
    assert all(len(d.levels) == 4 and d.description for one in campaign.rubrics[1:] for d in one.dimensions)


async def test_what_is_shown_is_blind(stack):
    record = known(1, 2)
    record.labels["source"] = "model-1 against model-2"
    record.responses[0].feedback.critique = "somebody else's words"
    campaign = await stack.campaign([record], quality_label="gold")
    task = await stack.take(campaign, "ann")
    assert task.record.prompt == record.prompt
    assert [response.content for response in task.record.responses] == [one.content for one in record.responses]
    assert not task.record.labels
    assert not task.record.HasField("preference")
    assert all(not r.source and not r.HasField("feedback") for r in task.record.responses)


async def test_priorities_come_first_in_their_order(stack):
    records = [pair(1), pair(2, labels={"topic": "law"}), known(3, 1), pair(4, labels={"topic": "art"})]
    priorities = [Priority(label=LabelMatch(key="topic", value="art")), Priority(quality_items=True)]
    priorities.append(Priority(label=LabelMatch(key="topic")))
    campaign = await stack.campaign(records, quality_label="gold", priorities=priorities)
    order = []
    for annotator in ("a", "b", "c", "d"):
        order.append((await stack.take(campaign, annotator)).record.id)
    assert order == ["pair-004", "pair-003", "pair-002", "pair-001"]


async def test_every_listed_annotator_can_answer_a_quality_item(stack):
    campaign = await stack.campaign([known(1, 1)], quality_label="gold", annotators=["ann", "bob", "cas"])
    for annotator, preferred in (("ann", 1), ("bob", 1), ("cas", 2)):
        await stack.annotate(campaign, annotator, preferred=preferred)
    report = await stack.client.get_agreement(campaign.name)
    assert [(one.annotator, one.quality_count, one.quality_right_count) for one in report.annotators] == [
        ("ann", 1, 1),
        ("bob", 1, 1),
        ("cas", 1, 0),
    ]


@pytest.mark.parametrize(
    ("records", "fields", "reason"),
    [
        ([Record(id="alone", subtask="t2t", prompt=content("x"))], {}, "NO_PAIRS"),
        ([pair(1, labels={"gold": "yes"})], {"quality_label": "gold"}, "KNOWN_ANSWER_MISSING"),
        ([pair(1)], {"overlap": 2, "annotators": ["ann"]}, "OVERLAP_TOO_LARGE"),
        ([pair(1)], {"rubrics": [TWICE]}, "RUBRIC_INVALID"),
        ([pair(1, subtask="t2smell")], {}, "SUBTASK_UNKNOWN"),
    ],
)
async def test_a_campaign_that_nobody_could_annotate_is_refused(stack, records, fields, reason):
    with pytest.raises(InvalidArgument) as caught:
        await stack.campaign(records, **fields)
    assert caught.value.reason == reason


async def test_a_dataset_of_another_project_is_refused_and_a_missing_one_not_found(stack):
    for version, error, reason in (
        ("projects/other/datasets/d/versions/1", InvalidArgument, "DATASET_OF_OTHER_PROJECT"),
        ("projects/default/datasets/absent/versions/1", NotFound, "DATASET_NOT_FOUND"),
    ):
        with pytest.raises(error) as caught:
            await stack.client.create_campaign("people", Campaign(dataset_version=version))
        assert caught.value.reason == reason


async def test_a_repeated_request_makes_one_campaign_and_another_one_needs_another_id(stack):
    version, request_id = await stack.store([pair(1)]), str(uuid.uuid4())
    wanted = Campaign(dataset_version=version)
    first = await stack.client.create_campaign("people", wanted, request_id=request_id)
    assert await stack.client.create_campaign("people", wanted, request_id=request_id) == first
    with pytest.raises(InvalidArgument) as caught:
        other = Campaign(dataset_version=version, overlap=2)
        await stack.client.create_campaign("people", other, request_id=request_id)
    assert caught.value.reason == "REQUEST_ID_REUSED"
    with pytest.raises(AlreadyExists) as taken:
        await stack.client.create_campaign("people", wanted)
    assert taken.value.reason == "CAMPAIGN_EXISTS"


async def test_a_campaign_whose_dataset_was_deleted_says_so_and_keeps_what_was_submitted(stack):
    campaign = await stack.campaign([pair(1), pair(2)])
    await stack.annotate(campaign, "ann")
    await stack.client.delete_dataset("projects/default/datasets/pairs", force=True)
    stack.clock.advance(60)  # for so long a pair that was read is kept
    for call in (
        stack.client.lease_task(campaign.name, annotator="ann"),
        stack.client.commit_campaign(campaign.name),
    ):
        with pytest.raises(FailedPrecondition) as caught:
            await call
        assert caught.value.reason == "DATASET_VERSION_GONE"
    assert (await stack.client.get_campaign(campaign.name)).progress.submitted_count == 1


async def test_the_dataset_of_a_campaign_stays_until_the_last_campaign_over_it_is_deleted(stack):
    campaign, pairs = await stack.campaign([pair(1)]), "projects/default/datasets/pairs"
    other = await stack.client.create_campaign("others", Campaign(dataset_version=campaign.dataset_version))
    await stack.client.close_campaign(other.name)  # it can be reopened, and committed
    for left in ([other.name, campaign.name], [campaign.name]):
        with pytest.raises(FailedPrecondition) as caught:
            await stack.client.delete_dataset(pairs)
        assert (caught.value.reason, caught.value.metadata["users"]) == ("DATASET_IN_USE", ",".join(left))
        await stack.client.delete_campaign(left[0])
    await stack.client.delete_dataset(pairs)


async def test_a_deleted_campaign_is_gone_with_its_answers(stack):
    campaign = await stack.campaign([pair(1)])
    task = await stack.annotate(campaign, "ann")
    await stack.client.delete_campaign(campaign.name)
    for call in (
        stack.client.get_campaign(campaign.name),
        stack.client.delete_campaign(campaign.name),
        stack.client.skip_task(task.name, "gone", annotator="ann"),
    ):
        with pytest.raises(NotFound) as caught:
            await call
        assert caught.value.reason == "CAMPAIGN_NOT_FOUND"
