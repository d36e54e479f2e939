"""Changing a campaign while people annotate: its settings, closing, reopening."""

import pytest

from omnialign.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from omnialign.v1.annotation_pb2 import Annotation
from omnialign.v1.annotation_service_pb2 import (
    Adjudication,
    Campaign,
    ImportedAnnotation,
    LabelMatch,
    Priority,
    Task,
)
from tests.services.annotation.conftest import LEASE_SECONDS, Stack, filled, known, pair


@pytest.fixture
async def either(tmp_path, database_url):
    """The server on SQLite and on PostgreSQL."""
    made = Stack(tmp_path, database_url=database_url, migrate_at_start=True)
    await made.start()
    try:
        yield made
    finally:
        await made.stop()


async def update(stack, campaign, **fields) -> Campaign:
    return await stack.client.update_campaign(Campaign(name=campaign.name, **fields), list(fields))


async def seats(stack, campaign) -> int:
    return (await stack.client.get_campaign(campaign.name)).progress.seat_count


async def test_words_and_leases_change_and_the_rest_stays(stack):
    campaign = await stack.campaign([pair(1)], instructions="Be quick.", annotators=["ann"])
    changed = await update(stack, campaign, display_name="שלום", instructions="", lease_seconds=600)
    assert (changed.display_name, changed.instructions, changed.lease_seconds) == ("שלום", "", 600)
    assert (changed.annotators, changed.overlap, changed.uid) == (["ann"], 1, campaign.uid)
    task = await stack.take(campaign, "ann")
    assert task.lease_expire_time.ToMicroseconds() - stack.clock.now_us == pytest.approx(600e6, abs=1000)


async def test_a_larger_overlap_adds_seats_and_what_was_submitted_stays(either):
    campaign = await either.campaign([pair(1), pair(2)])
    await either.annotate(campaign, "ann")
    assert (await update(either, campaign, overlap=3)).progress.seat_count == 6
    for person in ("bob", "cas"):
        for _ in range(2):
            await either.annotate(campaign, person)
    await either.annotate(campaign, "ann")
    assert (await either.client.get_campaign(campaign.name)).progress.submitted_count == 6
    done = await either.client.commit_campaign(campaign.name)
    assert (done.committed_count, done.open_count) == (2, 0)


async def test_a_smaller_overlap_takes_only_seats_that_nobody_needs(either):
    campaign = await either.campaign([pair(1), pair(2), pair(3), pair(4)], overlap=3)
    for person in ("ann", "bob"):
        await either.annotate(campaign, person, words=person)  # of the first pair
    held = await either.take(campaign, "cas")  # its third seat
    assert held.record.id == "pair-001"
    away = await either.take(campaign, "ann")  # the second pair, whose lease runs out
    either.clock.advance(LEASE_SECONDS + 1)
    await either.client.save_draft(held.name, Annotation(reason="at work"), revision=0, annotator="cas")
    changed = await update(either, campaign, overlap=1)
    assert changed.progress.seat_count == 3 + 1 + 1 + 1
    await either.client.submit_task(held.name, filled(held.rubric), revision=1, annotator="cas")
    items = [item async for item in either.client.list_items(campaign.name)]
    assert [answer.annotator for answer in items[0].answers] == ["ann", "bob", "cas"]
    done = await either.client.commit_campaign(campaign.name)
    assert (done.committed_count, done.open_count) == (1, 3)
    # Whose seat was taken away keeps the draft, and gets the pair that has one left.
    again = await either.client.save_draft(away.name, Annotation(reason="late"), revision=0, annotator="ann")
    assert again.state in (Task.STATE_LOST, Task.STATE_LEASED)
    assert (await either.take(campaign, "ann")).record.id == "pair-002"


async def test_who_is_no_annotator_any_more_gives_the_seat_back_and_keeps_what_they_submitted(either):
    campaign = await either.campaign([pair(1), pair(2), known(3, 1)], annotators=["ann", "bob"], quality_label="gold")
    assert campaign.progress.seat_count == 4
    await either.annotate(campaign, "ann")
    await either.take(campaign, "ann")
    assert (await update(either, campaign, annotators=["bob", "cas", "dan"])).progress.seat_count == 5
    with pytest.raises(PermissionDenied) as caught:
        await either.take(campaign, "ann")
    assert caught.value.reason == "NOT_AN_ANNOTATOR"
    assert (await either.take(campaign, "bob")).record.id == "pair-002"
    assert (await either.client.get_campaign(campaign.name)).progress.submitted_count == 1
    assert (await update(either, campaign, annotators=[])).progress.seat_count == 3


async def test_new_priorities_change_what_comes_next(either):
    records = [pair(1), pair(2), pair(3, labels={"topic": "law"}), known(4, 2)]
    campaign = await either.campaign(records, overlap=2, quality_label="gold")
    assert (await either.take(campaign, "ann")).record.id == "pair-001"
    law = Priority(label=LabelMatch(key="topic", value="law"))
    await update(either, campaign, priorities=[law, Priority(quality_items=True)])
    assert (await either.take(campaign, "ann")).record.id == "pair-001"  # a seat that one has stays
    order = []
    for _ in records:
        order.append((await either.take(campaign, "bob")).record.id)
        await either.annotate(campaign, "bob")
    assert order == ["pair-003", "pair-004", "pair-001", "pair-002"]


@pytest.mark.parametrize(
    ("fields", "paths", "reason"),
    [
        ({}, [], "UPDATE_MASK_INVALID"),
        ({"quality_label": "gold"}, ["quality_label"], "UPDATE_MASK_INVALID"),
        ({"overlap": 2}, ["overlap", "rubrics"], "UPDATE_MASK_INVALID"),
        ({"overlap": 2}, ["progress.item_count"], "UPDATE_MASK_INVALID"),
        ({"overlap": 3}, ["overlap"], "OVERLAP_TOO_LARGE"),
        ({"annotators": ["ann"]}, ["annotators"], "OVERLAP_TOO_LARGE"),
        ({"overlap": 21}, ["overlap"], "REQUEST_INVALID"),
        ({"priorities": [Priority()]}, ["priorities"], "REQUEST_INVALID"),
    ],
)
async def test_a_change_that_cannot_be_is_refused_and_changes_nothing(stack, fields, paths, reason):
    campaign = await stack.campaign([pair(1)], overlap=2, annotators=["ann", "bob"])
    wanted = Campaign(name=campaign.name, dataset_version=campaign.dataset_version, **fields)
    with pytest.raises(InvalidArgument) as caught:
        await stack.client.update_campaign(wanted, paths)
    assert caught.value.reason == reason
    assert await stack.client.get_campaign(campaign.name) == campaign


async def test_a_closed_campaign_takes_drafts_and_decisions_and_goes_on_when_it_is_reopened(stack):
    campaign = await stack.campaign([pair(1), pair(2)])
    assert campaign.state == Campaign.STATE_OPEN
    done = await stack.annotate(campaign, "ann")
    task = await stack.take(campaign, "bob")
    for _ in range(2):
        assert (await stack.client.close_campaign(campaign.name)).state == Campaign.STATE_CLOSED
    saved = await stack.client.save_draft(task.name, Annotation(reason="half"), revision=0, annotator="bob")
    brought = ImportedAnnotation(item=f"{campaign.name}/items/2", annotator="dan", annotation=filled(task.rubric))
    for call in (
        stack.client.submit_task(task.name, filled(task.rubric), revision=saved.revision, annotator="bob"),
        stack.client.lease_task(campaign.name, annotator="cas"),
        stack.client.skip_task(task.name, "why", annotator="bob"),
        stack.client.flag_task(task.name, "why", annotator="bob"),
        stack.client.import_annotations(campaign.name, [brought], tool="elsewhere", file_sha256="a" * 64),
    ):
        with pytest.raises(FailedPrecondition) as caught:
            await call
        assert caught.value.reason == "CAMPAIGN_CLOSED"
    # A submission whose answer was lost before may be repeated.
    again = await stack.client.submit_task(done.name, done.annotation, revision=1, annotator="ann")
    assert again.state == Task.STATE_SUBMITTED
    item = await stack.client.get_item(f"{campaign.name}/items/2")
    await stack.client.adjudicate_item(item.name, Adjudication(left_out=True, reason="late"), adjudicator="zoe")
    assert (await stack.client.commit_campaign(campaign.name)).committed_count == 1
    assert (await stack.client.reopen_campaign(campaign.name)).state == Campaign.STATE_OPEN
    back = await stack.take(campaign, "bob")
    assert (back.name, back.annotation) == (task.name, filled(task.rubric))  # the refused submission was kept
    await stack.client.submit_task(back.name, back.annotation, revision=back.revision, annotator="bob")


async def test_changes_of_what_is_not_there_are_not_found_and_of_a_deleted_dataset_say_so(stack):
    absent = "projects/default/campaigns/absent"
    for call in (
        stack.client.close_campaign(absent),
        stack.client.reopen_campaign(absent),
        stack.client.get_item(f"{absent}/items/1"),
        update(stack, Campaign(name=absent), display_name="x"),
    ):
        with pytest.raises(NotFound):
            await call
    campaign = await stack.campaign([pair(1)])
    with pytest.raises(NotFound) as caught:
        await stack.client.get_item(f"{campaign.name}/items/9")
    assert caught.value.reason == "ITEM_NOT_FOUND"
    await stack.client.delete_dataset("projects/default/datasets/pairs", force=True)
    with pytest.raises(FailedPrecondition) as gone:
        await update(stack, campaign, priorities=[Priority(quality_items=True)])
    assert gone.value.reason == "DATASET_VERSION_GONE"
    assert (await update(stack, campaign, overlap=2)).progress.seat_count == 2
