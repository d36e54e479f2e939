"""Forms that begin with a model's draft: what becomes of each part is recorded, committed and compared."""

import json

import pytest

from omnialign.content import content
from omnialign.errors import InvalidArgument
from omnialign.rubrics import TEXT
from omnialign.v1 import annotation_pb2
from omnialign.v1.annotation_pb2 import Annotation
from omnialign.v1.annotation_service_pb2 import Adjudication, Campaign
from services.annotation.drafting.origins import counted, settle
from tests.services.annotation.conftest import Stack, filled, pair
from tests.services.annotation.drafting import MODEL, draft, form, is_swapped, prefers_the_first_answer

ACCEPTED, EDITED = annotation_pb2.ORIGIN_ACCEPTED, annotation_pb2.ORIGIN_EDITED
REJECTED, OWN = annotation_pb2.ORIGIN_REJECTED, annotation_pb2.ORIGIN_OWN


def unsure_about_clarity(model, item):
    """A model that flips on one dimension."""
    answer = form(better=2 if is_swapped(item) else 1, scores=(1, 3) if is_swapped(item) else (3, 1))
    answer["winners"]["clarity"] = "first"
    return content(json.dumps(answer))


async def started(stack: Stack, *, pairs: int = 1, **fields):
    """A campaign whose annotators start from a model's drafts, which are there."""
    stack.behaviour.replies = unsure_about_clarity
    campaign = await stack.campaign([pair(number) for number in range(1, pairs + 1)], start_from=MODEL, **fields)
    job = await draft(stack, campaign.name)
    assert job.state == job.STATE_SUCCEEDED, job.error
    return campaign


async def test_a_form_begins_with_the_draft_of_the_campaigns_model(stack: Stack) -> None:
    campaign = await started(stack)
    task = await stack.take(campaign, "ann")
    assert (task.draft.model, task.annotation.draft_model, task.revision) == (MODEL, MODEL, 0)
    assert task.annotation.preferred == task.draft.annotation.preferred == 1
    assert "clarity" not in task.annotation.winners
    assert [part.part for part in task.draft.abstentions] == ["winner.clarity"]
    # What the annotator changes is theirs from then on.
    task.annotation.reason = "my own"
    await stack.client.save_draft(task.name, task.annotation, revision=0, annotator="ann")
    again = await stack.take(campaign, "ann")
    assert (again.annotation.reason, again.draft.annotation.reason) == ("my own", "response 1 is right")


async def test_each_part_is_accepted_edited_rejected_or_the_annotators_own(stack: Stack) -> None:
    campaign = await started(stack)
    task = await stack.take(campaign, "ann")
    annotation = task.annotation
    annotation.winners["clarity"] = 2
    annotation.feedback[0].critique = "a better critique"
    annotation.feedback[1].critique = "something else"
    annotation.origins["critique.2"] = REJECTED
    annotation.draft_model = "somebody else"  # a caller cannot say from what it began
    with pytest.raises(InvalidArgument) as caught:
        await stack.client.submit_task(task.name, annotation, revision=0, annotator="ann")
    assert caught.value.reason == "ANNOTATION_INCOMPLETE"
    undecided = {field for field, _ in caught.value.violations}
    assert 'annotation.origins["reason"]' in undecided
    assert 'annotation.origins["critique.1"]' not in undecided
    for part in ("preferred", "reason", "refinement.1", "refinement.2", *(f"winner.{name}" for name in TEXT)):
        annotation.origins[part] = ACCEPTED
    for name in TEXT:
        annotation.origins[f"score.1.{name}"] = annotation.origins[f"score.2.{name}"] = ACCEPTED
    await stack.client.submit_task(task.name, annotation, revision=0, annotator="ann")
    await stack.client.submit_task(task.name, annotation, revision=0, annotator="ann")  # once
    (item,) = [item async for item in stack.client.list_items(campaign.name)]
    kept = item.answers[0].annotation
    assert kept.draft_model == MODEL
    assert (kept.origins["winner.clarity"], kept.origins["winner.safety"]) == (OWN, ACCEPTED)
    assert (kept.origins["critique.1"], kept.origins["critique.2"]) == (EDITED, REJECTED)
    assert len(kept.origins) == 3 * len(TEXT) + 6


async def test_what_is_committed_says_which_model_drafted_it(stack: Stack) -> None:
    campaign = await started(stack)
    task = await stack.take(campaign, "ann")
    task.annotation.winners["clarity"] = 0
    for part in annotation_parts(task.draft.annotation):
        task.annotation.origins[part] = ACCEPTED
    await stack.client.submit_task(task.name, task.annotation, revision=0, annotator="ann")
    done = await stack.client.commit_campaign(campaign.name)
    version = done.dataset_version.name
    (record,) = [record async for record in stack.client.stream_records(version)]
    assert record.labels["draft_model"] == MODEL
    assert record.labels["draft_origins"] == f"accepted={3 * len(TEXT) + 5},own=1"
    edges = (await stack.client.get_lineage(version)).edges
    assert (MODEL, version, "drafted_in") in {(edge.source, edge.target, edge.relation) for edge in edges}


def annotation_parts(annotation):
    from omnialign.annotation_parts import parts_of

    return parts_of(annotation)


async def test_without_a_draft_a_form_begins_empty_and_nothing_is_said_of_origins(stack: Stack) -> None:
    stack.behaviour.replies = prefers_the_first_answer
    campaign = await stack.campaign([pair(1), pair(2)], start_from=MODEL)
    early = await stack.take(campaign, "ann")
    await draft(stack, campaign.name)
    late = await stack.take(campaign, "bob")
    assert (early.annotation, early.HasField("draft")) == (Annotation(), False)
    assert late.HasField("draft")
    annotation = filled(early.rubric)
    annotation.draft_model, annotation.origins["reason"] = MODEL, ACCEPTED
    await stack.client.submit_task(early.name, annotation, revision=0, annotator="ann")
    (item, _) = [item async for item in stack.client.list_items(campaign.name)]
    assert item.answers[0].annotation == filled(early.rubric)
    decision = Adjudication(annotation=annotation, reason="so be it")
    decided = await stack.client.adjudicate_item(item.name, decision, adjudicator="zoe")
    assert decided.adjudication.annotation == filled(early.rubric)


async def test_a_campaign_can_be_told_later_by_the_job(stack: Stack) -> None:
    stack.behaviour.replies = prefers_the_first_answer
    campaign = await stack.campaign([pair(1)])
    await draft(stack, campaign.name, start_from=True)
    assert (await stack.client.get_campaign(campaign.name)).start_from == MODEL
    assert (await stack.take(campaign, "ann")).draft.model == MODEL


async def test_a_campaign_can_be_told_later_by_an_update_and_told_otherwise_again(stack: Stack) -> None:
    stack.behaviour.replies = prefers_the_first_answer
    campaign = await stack.campaign([pair(1), pair(2)], keep_sides=False)
    await draft(stack, campaign.name)
    wanted = Campaign(name=campaign.name, start_from=MODEL)
    assert (await stack.client.update_campaign(wanted, ["start_from"])).start_from == MODEL
    wanted.start_from = "projects/other/models/m/versions/1"
    with pytest.raises(InvalidArgument) as caught:
        await stack.client.update_campaign(wanted, ["start_from"])
    assert caught.value.reason == "PROJECT_MISMATCH"
    people = [f"ann-{number}" for number in range(2)]
    for person in people:  # a draft is shown in the order of the record: its texts number the responses
        task = await stack.take(campaign, person)
        assert (task.draft.model, task.swapped) == (MODEL, False)
        await stack.client.skip_task(task.name, "not mine", annotator=person)
    assert (await stack.client.update_campaign(Campaign(name=campaign.name), ["start_from"])).start_from == ""
    assert not (await stack.take(campaign, "bob")).HasField("draft")


async def test_a_model_that_nobody_has_cannot_be_started_from(stack: Stack) -> None:
    for name, reason in (
        ("projects/other/models/m/versions/1", "PROJECT_MISMATCH"),
        ("judge", "RESOURCE_NAME_INVALID"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            await stack.campaign([pair(1)], start_from=name)
        assert caught.value.reason == reason
        await stack.client.delete_dataset("projects/default/datasets/pairs", force=True)


async def test_agreement_of_the_model_is_with_people_who_had_not_seen_it_and_with_those_who_had(stack: Stack) -> None:
    stack.behaviour.replies = unsure_about_clarity
    campaign = await stack.campaign([pair(1), pair(2)], overlap=2)
    for preferred in (1, 2):  # on their own: one agrees with the model, one does not
        await stack.annotate(campaign, "ann", preferred=preferred, scores=(3, 1) if preferred == 1 else (1, 3))
    await draft(stack, campaign.name, start_from=True)
    task = await stack.take(campaign, "bob")
    task.annotation.winners["clarity"] = 1
    for part in annotation_parts(task.draft.annotation):
        task.annotation.origins[part] = ACCEPTED
    await stack.client.submit_task(task.name, task.annotation, revision=0, annotator="bob")
    (model,) = (await stack.client.get_model_agreement(campaign.name)).models
    assert (model.model, model.draft_count, model.undecided_count) == (MODEL, 2, 0)
    alone, after = model.independent, model.from_draft
    assert (alone.annotation_count, alone.preferred.count, alone.preferred.rate) == (2, 2, 0.5)
    # Two units, (1, 1) and (1, 2): observed disagreement 1/2, expected 1/2.
    assert alone.preferred.alpha == pytest.approx(0.0)
    clarity = next(one for one in alone.dimensions if one.dimension == "clarity")
    assert (clarity.winner.count, clarity.winner.abstained_count, clarity.winner.HasField("rate")) == (0, 2, False)
    assert (clarity.scores.count, clarity.scores.rate) == (4, 0.5)
    assert (after.annotation_count, after.preferred.rate, after.preferred.HasField("alpha")) == (1, 1.0, False)
    assert (await stack.client.get_model_agreement(campaign.name)).models[0].model == MODEL


def test_a_rejected_text_must_change_and_a_rejected_choice_need_not() -> None:
    drafted = Annotation(preferred=1, reason="because")
    same = Annotation(preferred=1, reason="because", origins={"preferred": REJECTED, "reason": REJECTED})
    with pytest.raises(InvalidArgument) as caught:
        settle(same, drafted)
    assert [field for field, _ in caught.value.violations] == ['annotation.origins["reason"]']
    same.reason = "for another reason"
    settle(same, drafted)
    assert counted(same) == "rejected=2"
