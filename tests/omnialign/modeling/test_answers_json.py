"""JSON answers: what a schema admits is read, and anything else is a typed abstention."""

import json

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from omnialign.modeling.answers import AnswerUnparsable
from omnialign.modeling.answers_json import (
    VERDICTS,
    feedback_schema,
    judgement_schema,
    read_feedback,
    read_judgement,
    read_scores,
    scores_schema,
)
from omnialign.rubrics import SUBTASKS, rubric
from omnialign.v1 import record_pb2

RUBRIC = ("clarity", "safety")
SCORES = {"clarity": {"rationale": "", "score": 3}, "safety": {"rationale": "a knife", "score": 1}}
FEEDBACK = {"critique": "too dark", "refinement": "brighten it", "scores": SCORES}
JUDGEMENT = {"reason": "both are good", "preferred": "equal"}
SCHEMAS = (feedback_schema(RUBRIC), scores_schema(RUBRIC), judgement_schema())
texts = st.text().filter(str.strip)
numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers()
plain = st.recursive(
    st.none() | st.booleans() | numbers | st.text() | st.sampled_from([*FEEDBACK, *VERDICTS]),
    lambda some: st.lists(some) | st.dictionaries(st.sampled_from([*FEEDBACK, *JUDGEMENT, *RUBRIC, "score"]), some),
    max_leaves=8,
)


def values(schema):
    """The values that a schema admits, texts without words excepted."""
    if schema["type"] == "object":
        return st.fixed_dictionaries({name: values(inner) for name, inner in schema["properties"].items()})
    return st.sampled_from(schema["enum"]) if "enum" in schema else texts


def reason_of(read, answer, *rest):
    with pytest.raises(AnswerUnparsable) as caught:
        read(answer if isinstance(answer, str) else json.dumps(answer), *rest)
    return caught.value.reason


@given(st.sampled_from(SUBTASKS), st.data(), st.booleans(), st.sampled_from([None, 2]))
def test_feedback_that_the_schema_admits_is_read_as_it_was_written(subtask, data, ascii_only, indent):
    answer = data.draw(values(json.loads(feedback_schema(rubric(subtask)))))
    read = read_feedback(json.dumps(answer, ensure_ascii=ascii_only, indent=indent), rubric(subtask))
    assert (read.critique, read.refinement) == (answer["critique"].strip(), answer["refinement"].strip())
    assert [score.dimension for score in read.scores] == list(rubric(subtask))
    for score in read.scores:
        assert answer["scores"][score.dimension]["score"] == score.score
        assert answer["scores"][score.dimension]["rationale"].strip() == score.rationale


@given(values(json.loads(scores_schema(RUBRIC))))
def test_scores_that_the_schema_admits_are_those_of_the_feedback(answer):
    feedback = read_feedback(json.dumps({**FEEDBACK, **answer}), RUBRIC)
    assert read_scores(json.dumps(answer), RUBRIC) == record_pb2.Feedback(scores=feedback.scores)


@given(values(json.loads(judgement_schema())))
def test_a_judgement_that_the_schema_admits_is_read_as_it_was_written(answer):
    judgement = read_judgement(json.dumps(answer))
    assert (judgement.preferred, judgement.reason) == (VERDICTS[answer["preferred"]], answer["reason"].strip())


@given(
    st.text()
    | plain.map(json.dumps)
    | st.sampled_from(["NaN", "-Infinity"])
    | st.text().map('```json\n{{"critique": "{}"}}```'.format)
)
def test_any_text_is_either_read_or_a_typed_abstention(text):
    for read in (lambda: read_feedback(text, RUBRIC), lambda: read_scores(text, RUBRIC), lambda: read_judgement(text)):
        try:
            read()
        except AnswerUnparsable as error:
            assert error.reason.isupper()


@given(st.integers(0, len(json.dumps(FEEDBACK)) - 1))
def test_an_answer_that_was_cut_off_is_never_read(length):
    assert reason_of(read_feedback, json.dumps(FEEDBACK)[:length], RUBRIC) == "ANSWER_NOT_JSON"


@given(plain)
def test_a_verdict_that_is_not_one_is_never_guessed(verdict):
    assume(not isinstance(verdict, str) or verdict not in VERDICTS)
    assert reason_of(read_judgement, {**JUDGEMENT, "preferred": verdict}) == "VERDICT_INVALID"


def test_a_fence_around_the_object_is_left_out_and_nothing_else_is():
    text = json.dumps(JUDGEMENT)
    assert read_judgement(f"```json\n{text}\n```\n") == read_judgement(f" {text}\n") == read_judgement(text)
    for wrapped in (f"```\n{text}\n```", f"Here it is:\n{text}", f"```json\n{text}\n```\nDone.", f"{text}\n{text}"):
        assert reason_of(read_judgement, wrapped) == "ANSWER_NOT_JSON"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"critique": " "}, "SECTION_MISSING"),
        ({"refinement": 3}, "ANSWER_NOT_JSON"),
        ({"overall": 3}, "ANSWER_NOT_JSON"),
        ({"scores": None}, "ANSWER_NOT_JSON"),
        ({"scores": {}}, "DIMENSION_MISSING"),
        ({"scores": {**SCORES, "beauty": SCORES["clarity"]}}, "ANSWER_NOT_JSON"),
        ({"scores": {**SCORES, "clarity": 3}}, "ANSWER_NOT_JSON"),
        ({"scores": {**SCORES, "clarity": {"score": 3}}}, "ANSWER_NOT_JSON"),
        ({"scores": {**SCORES, "clarity": {"score": "3", "rationale": ""}}}, "ANSWER_NOT_JSON"),
        ({"scores": {**SCORES, "clarity": {"score": True, "rationale": ""}}}, "ANSWER_NOT_JSON"),
        ({"scores": {**SCORES, "clarity": {"score": 3, "rationale": None}}}, "ANSWER_NOT_JSON"),
        ({"scores": {**SCORES, "clarity": {"score": "3", "rationale": ""}}}, "ANSWER_NOT_JSON"),
        ({"scores": {**SCORES, "clarity": {"score": 3.0, "rationale": ""}}}, "ANSWER_NOT_JSON"),
        ({"scores": {**SCORES, "clarity": {"score": 4, "rationale": ""}}}, "SCORE_OUT_OF_RANGE"),
        ({"scores": {**SCORES, "clarity": {"score": -1, "rationale": ""}}}, "SCORE_OUT_OF_RANGE"),
    ],
)
def test_feedback_out_of_form_says_why(change, reason):
    assert reason_of(read_feedback, {**FEEDBACK, **change}, RUBRIC) == reason


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"reason": "a", "reason": "b", "preferred": "first"}', "SECTION_REPEATED"),
        ('{"preferred": "first"}', "SECTION_MISSING"),
        ('{"reason": "\\ud800", "preferred": "first"}', "ANSWER_NOT_JSON"),
        ('["first"]', "ANSWER_NOT_JSON"),
        ("[" * 100_000, "ANSWER_NOT_JSON"),
        ('{"reason": "a", "preferred": NaN}', "ANSWER_NOT_JSON"),
        ('{"reason": "a", "preferred": "first"} or second', "ANSWER_NOT_JSON"),
        ("1" * 10_000, "ANSWER_NOT_JSON"),
        ("", "ANSWER_NOT_JSON"),
    ],
)
def test_a_judgement_out_of_form_says_why(text, reason):
    assert reason_of(read_judgement, text) == reason


@pytest.mark.parametrize("schema", SCHEMAS)
def test_schemas_are_what_the_strict_mode_of_endpoints_takes(schema):
    check_strict(json.loads(schema))


def check_strict(schema):
    if schema["type"] != "object":
        assert set(schema) <= {"type", "enum"}
        return
    assert set(schema) == {"type", "properties", "required", "additionalProperties"}
    assert schema["additionalProperties"] is False
    assert schema["required"] == list(schema["properties"])
    for inner in schema["properties"].values():
        check_strict(inner)
