"""Annotations of other tools become submitted ones, each by whoever made it there, or say why not."""

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from omnialign import rubrics
from omnialign.errors import FailedPrecondition
from omnialign.v1.annotation_service_pb2 import ImportedAnnotation, ImportResult, Task
from omnialign.v1.record_pb2 import Mark, Region
from tests.services.annotation.conftest import filled, known, pair

DIGEST = "a" * 64
RUBRIC = rubrics.form("t2t")


def made(campaign, item=1, annotator="cas@example.com", *, seconds=0, **parts):
    """An annotation from elsewhere."""
    one = ImportedAnnotation(item=f"{campaign.name}/items/{item}", annotator=annotator)
    one.annotation.CopyFrom(filled(RUBRIC, **parts))
    if seconds:
        one.answer_time.CopyFrom(Timestamp(seconds=seconds))
    return one


async def add(stack, campaign, *annotations):
    return await stack.client.import_annotations(campaign.name, annotations, tool="label-studio", file_sha256=DIGEST)


async def answers(stack, campaign):
    """Who submitted what about the first pair."""
    items = [item async for item in stack.client.list_items(campaign.name)]
    return items[0].answers


async def test_an_imported_annotation_counts_with_its_annotator_and_time_and_names_its_file(stack):
    campaign = await stack.campaign([pair(1)], overlap=2)
    (result,) = await add(stack, campaign, made(campaign, seconds=1_600_000_000, preferred=2))
    assert result.state == ImportResult.STATE_ADDED
    (answer,) = await answers(stack, campaign)
    assert (answer.annotator, answer.state) == ("cas@example.com", Task.STATE_SUBMITTED)
    assert (answer.annotation.preferred, answer.answer_time.seconds) == (2, 1_600_000_000)
    lineage = await stack.client.get_lineage(campaign.name)
    edges = {(edge.source, edge.target, edge.relation) for edge in lineage.edges}
    assert (f"label-studio:sha256:{DIGEST}", campaign.name, "annotations_imported_from") in edges
    await stack.annotate(campaign, "ann", preferred=2)
    done = await stack.client.commit_campaign(campaign.name)
    (record,) = [record async for record in stack.client.stream_records(done.dataset_version.name)]
    assert record.labels["annotators"] == "ann,cas@example.com"


async def test_importing_twice_changes_nothing(stack):
    campaign = await stack.campaign([pair(1)], overlap=2)
    await add(stack, campaign, made(campaign, seconds=1))
    before = await answers(stack, campaign)
    (again,) = await add(stack, campaign, made(campaign, seconds=2))
    assert again.state == ImportResult.STATE_UNCHANGED
    assert await answers(stack, campaign) == before


async def test_each_is_taken_or_refused_by_itself(stack):
    campaign = await stack.campaign([pair(1), pair(2)])
    other = made(campaign)
    other.item = f"{campaign.name}-2/items/1"
    incomplete = made(campaign, item=2)
    incomplete.annotation.reason = " "
    nobody = made(campaign, annotator="  ")
    beyond = made(campaign, item=2)
    beyond.annotation.feedback[0].marks.append(Mark(part=3, region=Region(left=0, top=0, width=1, height=1)))
    missing = made(campaign, item=99)
    good = made(campaign)
    results = await add(stack, campaign, other, incomplete, nobody, beyond, missing, good)
    assert [result.reason for result in results] == [
        "ITEM_NOT_FOUND",
        "ANNOTATION_INCOMPLETE",
        "ANNOTATOR_MISSING",
        "ANNOTATION_INVALID",
        "ITEM_NOT_FOUND",
        "",
    ]
    assert "annotation.reason must say why" in results[1].message
    assert (await stack.client.get_campaign(campaign.name)).progress.submitted_count == 1


async def test_what_an_annotator_has_done_here_stays(stack):
    campaign = await stack.campaign([pair(1), pair(2), pair(3), pair(4)], overlap=2)
    await stack.annotate(campaign, "ann", preferred=1)
    skipped = await stack.take(campaign, "ann")
    await stack.client.skip_task(skipped.name, "tired", annotator="ann")
    draft = await stack.take(campaign, "ann")
    await stack.client.save_draft(draft.name, filled(RUBRIC), revision=0, annotator="ann")
    results = await add(stack, campaign, *(made(campaign, item=n, annotator="ann", preferred=2) for n in (1, 2, 3, 4)))
    assert [result.reason for result in results] == ["ALREADY_SUBMITTED", "TASK_DONE", "DRAFT_EXISTS", ""]
    kept = await stack.take(campaign, "ann")
    assert (kept.name, kept.annotation.preferred) == (draft.name, 1)


async def test_a_seat_is_taken_where_one_is_free_and_nobody_is_thrown_out(stack):
    campaign = await stack.campaign([pair(1)], overlap=2)
    await stack.take(campaign, "ann")
    mine, others, own = (made(campaign, annotator=who) for who in ("bob", "cas", "ann"))
    results = await add(stack, campaign, mine, others)
    assert [result.reason for result in results] == ["", "NO_FREE_SEAT"]
    (untouched,) = await add(stack, campaign, own)  # ann holds a seat and has written nothing
    assert untouched.state == ImportResult.STATE_ADDED
    assert [answer.annotator for answer in await answers(stack, campaign)] == ["bob", "ann"]


async def test_a_seat_whose_lease_has_run_out_is_free(stack):
    campaign = await stack.campaign([pair(1)])
    await stack.take(campaign, "ann")
    stack.clock.advance(1000)
    (result,) = await add(stack, campaign, made(campaign))
    assert result.state == ImportResult.STATE_ADDED


async def test_whoever_annotated_elsewhere_becomes_an_annotator_of_the_campaign(stack):
    campaign = await stack.campaign([pair(1)], overlap=2, annotators=["ann", "bob"])
    incomplete = made(campaign, annotator="dan")
    incomplete.annotation.preferred = 0
    await add(stack, campaign, made(campaign), incomplete)
    assert (await stack.client.get_campaign(campaign.name)).annotators == ["ann", "bob", "cas@example.com"]
    assert len(await answers(stack, campaign)) == 1
    open_to_all = await stack.client.create_campaign("all", type(campaign)(dataset_version=campaign.dataset_version))
    await add(stack, open_to_all, made(open_to_all))
    assert not (await stack.client.get_campaign(open_to_all.name)).annotators


async def test_a_quality_item_gets_a_seat_for_whoever_annotated_it_elsewhere(stack):
    campaign = await stack.campaign([known(1, preferred=1), pair(2)], annotators=["ann"], quality_label="gold")
    await stack.annotate(campaign, "ann")
    results = await add(
        stack, campaign, made(campaign), made(campaign, item=2), made(campaign, item=2, annotator="bob")
    )
    assert [result.reason for result in results] == ["", "", "NO_FREE_SEAT"]
    assert [answer.annotator for answer in await answers(stack, campaign)] == ["ann", "cas@example.com"]


async def test_nothing_is_imported_into_a_closed_campaign(stack):
    campaign = await stack.campaign([pair(1)])
    await stack.client.close_campaign(campaign.name)
    with pytest.raises(FailedPrecondition) as caught:
        await add(stack, campaign, made(campaign))
    assert caught.value.reason == "CAMPAIGN_CLOSED"
