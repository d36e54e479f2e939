"""Prompts that continue a conversation: what is learnt is exactly what the services ask of a model later."""

import pytest

from omnialign.content import asked_of, content, contents_of
from omnialign.modeling.inputs import MediaBytes, Turn
from omnialign.modeling.prompts import ask_feedback, ask_scores, render_critique, render_score
from omnialign.v1 import (
    content_pb2,
    critique_service_pb2,
    generation_pb2,
    judge_service_pb2,
    record_pb2,
    refinement_service_pb2,
)
from services.inference.structured_output import FeedbackTask
from services.judge.comparing import CompareTask
from services.judge.ratings import GenerationTask, UnderstandingTask
from services.judge.rewards import RewardTask
from services.refinement.writer import GenerateTask, RefineTask, Sample
from training.methods import METHODS
from training.samples import samples_of

PNG = b"a picture"
PICTURE = MediaBytes(content_pb2.MODALITY_IMAGE, PNG)
MEDIA = {PICTURE.sha256: PNG}
SECTIONS = generation_pb2.ANSWER_FORM_SECTIONS
SYSTEM, USER, ASSISTANT = content_pb2.ROLE_SYSTEM, content_pb2.ROLE_USER, content_pb2.ROLE_ASSISTANT


@pytest.fixture
def record() -> record_pb2.Record:
    """A pair with everything known about it, at the end of a conversation that showed a picture."""
    picture = content_pb2.Media(modality=content_pb2.MODALITY_IMAGE, mime_type="image/png", sha256=PICTURE.sha256)
    said = [(SYSTEM, content("Be brief.")), (USER, content("Look: ", picture, "!")), (ASSISTANT, content("A lake."))]
    made = record_pb2.Record(id="a", subtask="ti2t", prompt=content("Which one?"))
    made.history.extend(content_pb2.EarlierMessage(role=role, content=message) for role, message in said)
    for words, score in (("Como.", 3), ("No.", 0)):
        feedback = record_pb2.Feedback(critique="short", refinement="say more")
        feedback.scores.add(dimension="clarity", score=score)
        response = made.responses.add(content=content(words), feedback=feedback)
        for aspect in ("understanding", "instruction_following"):
            response.assessments.add(aspect=aspect, score=5, rationale="so")
    made.preference.preferred = 1
    made.benchmark_item.category = "perception"
    made.benchmark_item.references.add(answer="Lake Como")
    return made


def learnt(record: record_pb2.Record, method: str = "sft", target: str = "") -> tuple[Turn, ...]:
    """The prompt of the first sample."""
    return samples_of(record, media=MEDIA, method=method, target=target)[0].turns


def asked(task, item) -> tuple[Turn, ...]:
    """What a service asks first about an item."""
    assert PICTURE.sha256 in {part.media.sha256 for message in task.contents(item) for part in message.parts}
    return task.prompts(item, MEDIA)[0].rendered.turns


def fields(record: record_pb2.Record) -> dict:
    return {"id": "0", "history": record.history, "prompt": record.prompt}


def answered(record: record_pb2.Record) -> dict:
    return fields(record) | {"response": record.responses[0].content}


def test_a_policy_learns_from_the_conversation_that_it_is_asked(record):
    item = refinement_service_pb2.GenerateItem(**fields(record))
    turns = asked(GenerateTask(refinement_service_pb2.GenerateRequest(), None), Sample(item, 0))
    assert [turn.role for turn in turns] == ["system", "user", "assistant", "user"]
    assert turns[1].pieces == ("Look: ", PICTURE, "!")
    for method, found in METHODS.items():
        if found.rows != "critiqued":
            assert learnt(record, method) == turns, method
    assert asked(RewardTask(judge_service_pb2.ComputeRewardsResponse), judge_service_pb2.RewardItem(**answered(record)))


def test_a_prompt_that_is_answered_while_the_policy_learns_keeps_its_conversation(record):
    (sample,) = samples_of(record, media=MEDIA, method="grpo", target="")
    kept = record_pb2.Record.FromString(sample.record)
    assert list(asked_of(kept)) == list(asked_of(record))
    assert not kept.responses


def test_a_teacher_that_reads_the_feedback_reads_the_conversation(record):
    item = refinement_service_pb2.RefineItem(**answered(record), feedback=record.responses[0].feedback)
    (first, *_) = samples_of(record, media=MEDIA, method="sdpo", target="")
    assert first.teacher_turns == asked(RefineTask(refinement_service_pb2.RefineResponse, None), item)
    assert first.teacher_turns[: len(record.history)] == first.turns[:-1]


@pytest.mark.parametrize("target", ["feedback", "score", "judgement", "understanding", "generation"])
def test_critics_and_judges_learn_from_the_question_that_they_are_asked(record, target):
    item = critique_service_pb2.CritiqueItem(**answered(record), subtask=record.subtask)
    judge = judge_service_pb2
    task, item = {
        "feedback": (FeedbackTask(None, SECTIONS, ask=ask_feedback, render=render_critique), item),
        "score": (FeedbackTask(None, SECTIONS, ask=ask_scores, render=render_score), item),
        "judgement": (
            CompareTask(SECTIONS),
            judge.CompareItem(
                **fields(record), baseline=record.responses[0].content, candidate=record.responses[1].content
            ),
        ),
        "understanding": (
            UnderstandingTask(SECTIONS),
            judge.UnderstandingItem(
                **answered(record), references=record.benchmark_item.references, category="perception"
            ),
        ),
        "generation": (
            GenerationTask(SECTIONS),
            judge.GenerationItem(**answered(record), modality=content_pb2.MODALITY_TEXT),
        ),
    }[target]
    target = "judgement" if target == "score" else target
    taught = [sample.turns for sample in samples_of(record, media=MEDIA, method="sft", target=target)]
    turns = asked(task, item)
    assert turns in taught
    (turn,) = turns
    text = "".join(piece for piece in turn.pieces if isinstance(piece, str))
    assert "[system]: Be brief.\n[user]: Look: !\n[assistant]: A lake.\n[user]: Which one?" in text


def test_all_messages_of_a_record_come_in_order(record):
    assert list(contents_of(record)) == [
        *(message.content for message in record.history),
        record.prompt,
        *(response.content for response in record.responses),
    ]
