"""What comes out: agreement, adjudication, and the new dataset version."""

import pytest

from omnialign.errors import AlreadyExists, FailedPrecondition, InvalidArgument
from omnialign.v1.annotation_pb2 import Annotation
from omnialign.v1.annotation_service_pb2 import Adjudication, Answer, ListItemsRequest, Task
from omnialign.v1.data_service_pb2 import GetLineageRequest
from omnialign.v1.record_pb2 import DimensionScore, Feedback, Mark, TimeSpan
from services.annotation.reports import agreement
from services.annotation.results import distance, nearest
from tests.services.annotation.conftest import filled, known, media_pair, pair


def answer(annotator: str, preferred: int, *scores: int) -> Answer:
    """A submitted answer with one score of each response on one dimension."""
    feedback = [Feedback(scores=[DimensionScore(dimension="clarity", score=score)]) for score in scores]
    annotation = Annotation(feedback=feedback, winners={"clarity": preferred}, preferred=preferred)
    return Answer(annotator=annotator, state=Task.STATE_SUBMITTED, annotation=annotation)


def test_agreement_is_krippendorffs_alpha_by_dimension_and_the_share_of_agreeing_pairs():
    answers = {
        1: [answer("a", 1, 3, 0), answer("b", 1, 3, 1)],
        2: [answer("a", 2, 0, 2), answer("b", 2, 0, 2), answer("c", 1, 1, 2)],
        3: [answer("a", 1, 2, 1)],
    }
    report = agreement(answers, {3: 2})
    assert (report.item_count, report.pair_count, report.pairwise_agreement) == (2, 4, pytest.approx(2 / 4))
    # By hand: of the coincidences 1-1, 2-2, 1-2 there are 2, 1 and 2 * 1 among 5 votes, three for 1 and two for 2.
    assert report.preferred_alpha == pytest.approx(1 - (2 / 5) / (12 / 20))
    (dimension,) = report.dimensions
    assert dimension.winner_alpha == pytest.approx(report.preferred_alpha)
    assert 0 < dimension.score_alpha < 1
    assert [(one.annotator, one.quality_count, one.quality_right_count) for one in report.annotators] == [
        ("a", 1, 0),
        ("b", 0, 0),
        ("c", 0, 0),
    ]


def test_without_two_annotations_of_an_item_nothing_is_said():
    report = agreement({1: [answer("a", 1, 3, 0)]}, {})
    assert not report.dimensions
    assert not report.HasField("preferred_alpha")
    assert not report.HasField("pairwise_agreement")


def test_the_annotation_nearest_to_all_others_stands_for_them():
    answers = [answer("far", 1, 3, 0), answer("middle", 1, 2, 1), answer("other", 1, 2, 2), answer("against", 2, 1, 2)]
    assert distance(answers[0].annotation, answers[3].annotation) == 1 + 2 + 2
    assert nearest(answers[:3], answers).annotator == "middle"


async def test_a_majority_is_committed_as_a_new_version_with_who_and_when(stack):
    record = pair(1)
    record.labels["topic"] = "law"
    record.preference.preferred = 2
    campaign = await stack.campaign([record, pair(2), known(3, 1)], overlap=3, quality_label="gold")
    for annotator, preferred, scores in (("ann", 1, (3, 1)), ("bob", 1, (3, 2)), ("cas", 2, (2, 2))):
        await stack.annotate(campaign, annotator, preferred=preferred, scores=scores, words=annotator)
    await stack.take(campaign, "ann")
    done = await stack.client.commit_campaign(campaign.name)
    assert (done.committed_count, done.open_count, done.undecided_count, done.set_aside_count) == (1, 1, 0, 0)
    assert done.dataset_version.name == "projects/default/datasets/people/versions/1"
    (made,) = [record async for record in stack.client.stream_records(done.dataset_version.name)]
    annotation = filled(campaign.rubrics[0], preferred=1, scores=(3, 2), words="bob")
    assert (made.prompt, made.split, made.subtask) == (record.prompt, "train", "t2t")
    assert [response.source for response in made.responses] == ["model-1", "model-2"]
    assert [response.feedback for response in made.responses] == list(annotation.feedback)
    assert (made.preference.preferred, made.preference.reason) == (1, "bob")
    assert made.preference.dimensions == annotation.winners
    labels = dict(made.labels)
    assert labels.pop("annotation_time").startswith("2023-11-14T")
    assert labels == {
        "topic": "law",
        "annotation_campaign": campaign.name,
        "annotation_author": "bob",
        "annotators": "ann,bob,cas",
    }
    lineage = await stack.client.get_lineage(
        done.dataset_version.name, direction=GetLineageRequest.DIRECTION_SOURCES, max_depth=1
    )
    assert {(edge.source, edge.relation) for edge in lineage.edges} >= {
        (campaign.dataset_version, "annotated_in"),
        (campaign.name, "annotated_by"),
    }
    assert await stack.client.commit_campaign(campaign.name) == done
    await stack.annotate(campaign, "ann")


async def test_equal_dimensions_have_no_winner_in_the_record_and_marks_are_kept(stack):
    campaign = await stack.campaign([media_pair("t2v")])
    task = await stack.take(campaign, "ann")
    annotation = filled(task.rubric)
    annotation.winners["safety"] = 0
    annotation.feedback[1].marks.append(Mark(part=0, span=TimeSpan(start_seconds=1, end_seconds=2), note="flickers"))
    await stack.client.submit_task(task.name, annotation, revision=0, annotator="ann")
    done = await stack.client.commit_campaign(campaign.name, dataset_id="videos")
    (made,) = [record async for record in stack.client.stream_records(done.dataset_version.name)]
    assert "safety" not in made.preference.dimensions
    assert made.preference.dimensions["aesthetics"] == 1
    assert made.responses[1].feedback.marks[0].note == "flickers"


async def test_a_disagreement_waits_for_an_adjudicator(stack):
    campaign = await stack.campaign([pair(1), pair(2)], overlap=2)
    await stack.annotate(campaign, "ann", preferred=1)
    await stack.annotate(campaign, "bob", preferred=2, words="bob")
    with pytest.raises(FailedPrecondition) as nothing:
        await stack.client.commit_campaign(campaign.name)
    assert (nothing.value.reason, nothing.value.metadata) == (
        "NOTHING_DECIDED",
        {"open": "1", "undecided": "1", "set_aside": "0"},
    )
    only = ListItemsRequest.FILTER_DISAGREEMENTS
    (item,) = [item async for item in stack.client.list_items(campaign.name, only)]
    assert [answer.annotator for answer in item.answers] == ["ann", "bob"]
    decision = Adjudication(annotator="bob", reason="ann misread the prompt")
    decided = await stack.client.adjudicate_item(item.name, decision, adjudicator="zoe")
    assert (decided.adjudication.adjudicator, decided.adjudication.annotator) == ("zoe", "bob")
    assert [item async for item in stack.client.list_items(campaign.name, only)] == []
    done = await stack.client.commit_campaign(campaign.name)
    (made,) = [record async for record in stack.client.stream_records(done.dataset_version.name)]
    assert (made.preference.preferred, made.preference.reason) == (2, "bob")
    assert (made.labels["adjudicator"], made.labels["adjudication_reason"]) == ("zoe", "ann misread the prompt")


async def test_an_adjudicator_may_decide_for_nobody_or_against_the_pair(stack):
    campaign = await stack.campaign([pair(1), pair(2)])
    task = await stack.take(campaign, "ann")
    await stack.client.flag_task(task.name, "unreadable", annotator="ann")
    await stack.annotate(campaign, "ann")
    first, second = [item async for item in stack.client.list_items(campaign.name)]
    for bad, reason in (
        (Adjudication(annotator="bob", reason="x"), "ANSWER_NOT_FOUND"),
        (Adjudication(annotation=Annotation(preferred=1), reason="x"), "ANNOTATION_INCOMPLETE"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            await stack.client.adjudicate_item(first.name, bad, adjudicator="zoe")
        assert caught.value.reason == reason
    own = Adjudication(annotation=filled(task.rubric, words="zoe's own"), reason="it can be read")
    await stack.client.adjudicate_item(first.name, own, adjudicator="zoe")
    await stack.client.adjudicate_item(second.name, Adjudication(left_out=True, reason="dull"), adjudicator="zoe")
    done = await stack.client.commit_campaign(campaign.name)
    assert (done.committed_count, done.set_aside_count) == (1, 1)
    (made,) = [record async for record in stack.client.stream_records(done.dataset_version.name)]
    assert (made.id, made.labels["annotation_author"]) == ("pair-001", "zoe")


async def test_a_campaign_writes_only_to_a_dataset_of_its_own(stack):
    campaign = await stack.campaign([pair(1)])
    await stack.annotate(campaign, "ann")
    with pytest.raises(AlreadyExists) as caught:
        await stack.client.commit_campaign(campaign.name, dataset_id="pairs")
    assert caught.value.reason == "DATASET_EXISTS"
