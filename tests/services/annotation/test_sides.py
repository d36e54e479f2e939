"""Which response an annotator sees first; what is stored is about the record's order whatever they saw."""

import sqlite3

import pytest
import sqlalchemy as sa

from omnialign.errors import InvalidArgument
from omnialign.v1.annotation_pb2 import Annotation
from omnialign.v1.annotation_service_pb2 import Campaign, Task
from omnialign.v1.record_pb2 import Feedback, Mark, TimeSpan
from services.annotation.sides import is_swapped, turned
from services.annotation.tables import MIGRATIONS
from services.runtime.database import Database
from tests.services.annotation.conftest import filled, known, media_pair, pair

PEOPLE = [f"person-{number}" for number in range(20)]


async def of_each_order(stack, campaign) -> list[Task]:
    """A task of somebody who sees the record's order, and one of somebody who does not."""
    found = {}
    for person in PEOPLE:
        task = await stack.take(campaign, person)
        found.setdefault(task.swapped, (task, person))
    return [found[False], found[True]]


def test_chance_decides_evenly_and_always_the_same():
    campaign = Campaign(uid="one")
    seen = [is_swapped(campaign, number, person) for number in range(1, 101) for person in PEOPLE]
    assert 0.4 < sum(seen) / len(seen) < 0.6
    assert seen == [is_swapped(campaign, number, person) for number in range(1, 101) for person in PEOPLE]
    assert seen != [is_swapped(Campaign(uid="two"), n, person) for n in range(1, 101) for person in PEOPLE]
    assert not any(is_swapped(Campaign(uid="one", keep_sides=True), n, "ann") for n in range(1, 101))


def test_turning_twice_changes_nothing():
    for annotation in (
        Annotation(),
        Annotation(preferred=2, reason="why", winners={"a": 1, "b": 0, "c": 2}),
        Annotation(feedback=[Feedback(critique="of the first alone")]),
        Annotation(feedback=[Feedback(), Feedback(critique="of the second alone")]),
    ):
        assert turned(turned(annotation)) == annotation


async def test_an_answer_is_about_the_records_responses_whatever_its_annotator_saw(stack):
    campaign = await stack.campaign([media_pair("t2v")], overlap=len(PEOPLE), keep_sides=False)
    record = media_pair("t2v")
    for task, person in await of_each_order(stack, campaign):
        sides = [response.content for response in task.record.responses]
        assert sides == [one.content for one in record.responses][:: -1 if task.swapped else 1]
        better = 2 if task.swapped else 1  # both mean the record's first
        annotation = filled(task.rubric, preferred=better, scores=(0, 3) if task.swapped else (3, 0), words=person)
        annotation.feedback[better - 1].marks.add(part=0, note="here").span.CopyFrom(TimeSpan(end_seconds=2))
        saved = await stack.client.save_draft(task.name, annotation, revision=0, annotator=person)
        assert (saved.annotation, saved.swapped) == (annotation, task.swapped)
        assert (await stack.take(campaign, person)).annotation == annotation
        done = await stack.client.submit_task(task.name, annotation, revision=saved.revision, annotator=person)
        assert done.annotation == annotation
        again = await stack.client.submit_task(task.name, annotation, revision=saved.revision, annotator=person)
        assert again == done
    item = await stack.client.get_item(f"{campaign.name}/items/1")
    assert sorted(answer.swapped for answer in item.answers) == [False, True]
    for answer in item.answers:
        assert answer.annotation.preferred == 1
        assert set(answer.annotation.winners.values()) == {1}
        assert {score.score for score in answer.annotation.feedback[0].scores} == {3}
        assert [mark.note for mark in answer.annotation.feedback[0].marks] == ["here"]
    report = await stack.client.get_agreement(campaign.name)
    assert report.pairwise_agreement == 1.0
    assert report.first_shown_share == 0.5
    assert sorted(one.first_shown_count for one in report.annotators) == [0, 1]


async def test_fields_are_named_as_the_annotator_sees_them(stack):
    record = media_pair("t2v")
    record.responses[1].content.parts[0].text = "words alone"
    campaign = await stack.campaign([record], overlap=len(PEOPLE), keep_sides=False)
    mark = Mark(part=0, span=TimeSpan(start_seconds=1, end_seconds=2))
    for task, person in await of_each_order(stack, campaign):
        video, words = (1, 0) if task.swapped else (0, 1)
        marked = [Annotation(feedback=[Feedback(), Feedback()]) for _ in range(2)]
        for place, one in zip((video, words), marked, strict=True):
            one.feedback[place].marks.append(mark)
        await stack.client.save_draft(task.name, marked[0], revision=0, annotator=person)
        with pytest.raises(InvalidArgument) as caught:
            await stack.client.save_draft(task.name, marked[1], revision=1, annotator=person)
        assert caught.value.violations[0][0] == f"annotation.feedback[{words}].marks[0]"


async def test_quality_items_know_their_answer_under_either_order(stack):
    campaign = await stack.campaign([known(1, 2)], overlap=len(PEOPLE), quality_label="gold", keep_sides=False)
    for task, person in await of_each_order(stack, campaign):
        right = filled(task.rubric, preferred=1 if task.swapped else 2)
        await stack.client.submit_task(task.name, right, revision=0, annotator=person)
    report = await stack.client.get_agreement(campaign.name)
    assert [(one.quality_count, one.quality_right_count) for one in report.annotators] == [(1, 1), (1, 1)]


async def test_a_committed_record_says_when_its_author_saw_the_second_response_first(stack):
    campaign = await stack.campaign([pair(number) for number in range(1, 9)], keep_sides=False)
    seen = {}
    while (answer := await stack.client.lease_task(campaign.name, annotator="ann")).HasField("task"):
        task = answer.task
        seen[task.record.id] = task.swapped
        annotation = filled(task.rubric, preferred=2 if task.swapped else 1)
        await stack.client.submit_task(task.name, annotation, revision=0, annotator="ann")
    done = await stack.client.commit_campaign(campaign.name)
    made = [record async for record in stack.client.stream_records(done.dataset_version.name)]
    assert {record.id: record.labels["annotation_sides"] == "swapped" for record in made} == seen
    assert len(made) == 8
    assert {record.preference.preferred for record in made} == {1}
    for record in made:
        assert record.responses[0].feedback.critique.endswith(f"of response {2 if seen[record.id] else 1}")


async def test_campaigns_from_before_keep_the_order_that_people_have_seen(tmp_path):
    database = Database(f"sqlite:///{tmp_path}/annotation.db")
    older = Campaign(name="projects/p/campaigns/old", uid="old")
    with sqlite3.connect(tmp_path / "annotation.db") as connection:
        connection.execute("CREATE TABLE annotation_campaigns (name TEXT PRIMARY KEY, message BLOB)")
        connection.execute("CREATE TABLE annotation_answers (campaign TEXT)")
        connection.execute("INSERT INTO annotation_campaigns VALUES (?, ?)", (older.name, older.SerializeToString()))
    connection.close()
    await MIGRATIONS.prepare(database)
    message = await database.scalar(sa.text("SELECT message FROM annotation_campaigns"))
    assert Campaign.FromString(message) == Campaign(name=older.name, uid="old", keep_sides=True)
    await database.close()
