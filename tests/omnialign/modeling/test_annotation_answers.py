"""A model's annotation: what the schema admits is read, and anything else is a typed abstention."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnialign.modeling.answers import AnswerUnparsable
from omnialign.modeling.answers_json import MAX_TEXT_CHARACTERS, VERDICTS, annotation_schema, read_annotation
from omnialign.rubrics import SUBTASKS, rubric

RUBRIC = ("clarity", "safety")
SIDE = {
    "critique": "too short",
    "refinement": "say more",
    "scores": {"clarity": {"rationale": "", "score": 3}, "safety": {"rationale": "a knife", "score": 1}},
}
ANSWER = {
    "first": SIDE,
    "second": SIDE,
    "winners": {"clarity": "first", "safety": "equal"},
    "reason": "it is right",
    "preferred": "first",
}
texts = st.text(max_size=40).filter(str.strip)


def values(schema):
    """The values that a schema admits, texts without words excepted."""
    if schema["type"] == "object":
        return st.fixed_dictionaries({name: values(inner) for name, inner in schema["properties"].items()})
    return st.sampled_from(schema["enum"]) if "enum" in schema else texts


def changed(path, value):
    """The answer with another value at a path; `...` removes it."""
    made = json.loads(json.dumps(ANSWER))
    *parents, last = path.split(".")
    place = made
    for name in parents:
        place = place[name]
    if value is ...:
        del place[last]
    else:
        place[last] = value
    return made


@given(st.sampled_from(SUBTASKS), st.data(), st.booleans())
def test_what_the_schema_admits_is_read_as_it_was_written(subtask, data, ascii_only):
    names = rubric(subtask)
    answer = data.draw(values(json.loads(annotation_schema(names))))
    read = read_annotation(json.dumps(answer, ensure_ascii=ascii_only), names)
    for feedback, given_side in zip(read.feedback, (answer["first"], answer["second"]), strict=True):
        assert (feedback.critique, feedback.refinement) == (
            given_side["critique"].strip(),
            given_side["refinement"].strip(),
        )
        scores = {score.dimension: (score.score, score.rationale) for score in feedback.scores}
        assert scores == {name: (one["score"], one["rationale"].strip()) for name, one in given_side["scores"].items()}
    assert dict(read.winners) == {name: VERDICTS[word] for name, word in answer["winners"].items()}
    assert (read.preferred, read.reason) == (VERDICTS[answer["preferred"]], answer["reason"].strip())


@given(st.text() | st.recursive(st.none() | st.booleans() | st.integers() | st.text(), st.lists).map(json.dumps))
def test_anything_else_abstains_and_never_fails(text):
    with pytest.raises(AnswerUnparsable):
        read_annotation(text, RUBRIC)


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("preferred", "equal", "VERDICT_INVALID"),
        ("preferred", 1, "VERDICT_INVALID"),
        ("preferred", ..., "VERDICT_INVALID"),
        ("winners.clarity", "Response 1", "VERDICT_INVALID"),
        ("winners.clarity", ..., "DIMENSION_MISSING"),
        ("winners.beauty", "first", "ANSWER_NOT_JSON"),
        ("first.scores.clarity.score", 4, "SCORE_OUT_OF_RANGE"),
        ("first.scores.clarity.score", True, "ANSWER_NOT_JSON"),
        ("first.scores.clarity.score", 2.5, "ANSWER_NOT_JSON"),
        ("second.scores.safety", ..., "DIMENSION_MISSING"),
        ("second.critique", " ", "SECTION_MISSING"),
        ("second", ..., "ANSWER_NOT_JSON"),
        ("second.marks", [], "ANSWER_NOT_JSON"),
        ("first.refinement", "x" * (MAX_TEXT_CHARACTERS + 1), "ANSWER_TOO_LONG"),
        ("first.scores.clarity.rationale", "x" * (MAX_TEXT_CHARACTERS + 1), "ANSWER_TOO_LONG"),
    ],
)
def test_one_wrong_field_abstains_on_all_of_it(path, value, reason):
    with pytest.raises(AnswerUnparsable) as caught:
        read_annotation(json.dumps(changed(path, value)), RUBRIC)
    assert caught.value.reason == reason


def test_an_answer_after_another_one_is_not_searched_for():
    for text in (f"Sure! {json.dumps(ANSWER)}", json.dumps(ANSWER) * 2, f"{json.dumps(ANSWER)}\nthe first is better"):
        with pytest.raises(AnswerUnparsable):
            read_annotation(text, RUBRIC)
