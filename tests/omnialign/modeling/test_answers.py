"""Structured answers are read exactly as written, and anything else is a typed abstention."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnialign.errors import InvalidArgument
from omnialign.modeling.answers import (
    AnswerUnparsable,
    read_feedback,
    read_judgement,
    read_scores,
    write_feedback,
    write_judgement,
    write_scores,
)
from omnialign.rubrics import SUBTASKS, rubric
from omnialign.v1 import record_pb2

words = st.text(st.characters(categories=("Ll", "Lu", "Nd"), include_characters=" .,'"), min_size=1).filter(str.strip)
RUBRIC = rubric("t2i")


def feedback(scores, critique="too dark.", refinement="make it lighter."):
    entries = [record_pb2.DimensionScore(dimension=d, score=s) for d, s in scores.items()]
    return record_pb2.Feedback(scores=entries, critique=critique, refinement=refinement)


@given(st.sampled_from(SUBTASKS), st.data(), words, words)
def test_feedback_is_read_as_it_was_written(subtask, data, critique, refinement):
    scores = {d: data.draw(st.integers(0, 3)) for d in rubric(subtask)}
    written = feedback(scores, critique.strip(), refinement.strip())
    assert read_feedback(write_feedback(written, rubric(subtask)), rubric(subtask)) == written


def test_answers_in_several_modalities_share_a_rubric_and_unknown_ones_have_none():
    assert rubric("t2tia") == rubric("tia2ti") == rubric("ti2ti") and rubric("tia2t") == rubric("t2t")
    for subtask in ("t2", "t2x", "tia", "", "t2tx", "t2n/a", "t2text"):
        with pytest.raises(InvalidArgument) as caught:
            rubric(subtask)
        assert caught.value.reason == "SUBTASK_UNKNOWN"


@given(words, st.sampled_from([0, 1, 2]))
def test_a_judgement_is_read_as_it_was_written(reason, preferred):
    judgement = read_judgement(write_judgement(reason.strip(), preferred))
    assert (judgement.preferred, judgement.reason) == (preferred, reason.strip())


@given(st.text())
def test_any_text_is_either_read_or_a_typed_abstention(text):
    for read in (lambda: read_feedback(text, RUBRIC), lambda: read_scores(text, RUBRIC), lambda: read_judgement(text)):
        try:
            read()
        except AnswerUnparsable as error:
            assert error.reason.isupper()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("a fine picture", "SECTION_MISSING"),
        ("##Critique: a ##Refinement: b", "SECTION_MISSING"),
        ("##Critique: a ##Critique: b ##Refinement: c ##Scores: d 1", "SECTION_REPEATED"),
        ("##Critique: a ##Refinement: b ##Scores: prompt_following 3", "DIMENSION_MISSING"),
        ("##Critique: a ##Refinement: b ##Scores: prompt_following 7", "SCORE_OUT_OF_RANGE"),
        ("##Critique: a ##Refinement: b ##Scores: prompt_following -1", "SCORE_OUT_OF_RANGE"),
        ("##Refinement: b ##Critique: a ##Scores: prompt_following 1", "ANSWER_UNPARSABLE"),
        ("Sure! ##Critique: a ##Refinement: b ##Scores: prompt_following 1", "ANSWER_UNPARSABLE"),
        ("##Critique: a ##Refinement: b ##Note: c ##Scores: prompt_following 1", "ANSWER_UNPARSABLE"),
    ],
)
def test_feedback_out_of_form_says_why(text, reason):
    with pytest.raises(AnswerUnparsable) as caught:
        read_feedback(text, RUBRIC)
    assert caught.value.reason == reason


@pytest.mark.parametrize(
    "scores",
    [
        "clarity 3.7, safety 1",
        "clarity 3/10, safety 1",
        "clarity 3 of 3, safety 1",
        "clarity 3 or 2, safety 1",
        "clarity 3-2, safety 1",
        "clarity 3%, safety 1",
        "clarity 3 safety 1",
        "clarity 3; safety 1",
        "clarity: 3, safety: 1",
        "clarity ٣, safety 1",
        "clarity 03.0, safety 1",
        "clarity +3, safety 1",
        "clarity 3, clarity 1, safety 1",
        "clarity 3, safety 1, humour 3",
        "clarity 3, safety 1,",
        "clarity 3, safety 1. Overall 2",
        "clarity 3, safety 1 (a (b))",
        "clarity 3, safety 1 (no end",
        "maybe clarity 3, safety 1",
        "not clarity 3, safety 1",
    ],
)
def test_a_number_that_happens_to_be_there_is_no_score(scores):
    rubric = ("clarity", "safety")
    assert [s.score for s in read_scores("##Scores: clarity 3,\n safety 1 (a knife)", rubric).scores] == [3, 1]
    for text in (f"##Scores: {scores}", f"##Critique: a ##Refinement: b ##Scores: {scores}"):
        with pytest.raises(AnswerUnparsable):
            (read_feedback if "Critique" in text else read_scores)(text, rubric)


@pytest.mark.parametrize("text", ["##Preferred: 1 ##Reason: a", "##Preferred: 1", "1 ##Reason: a ##Preferred: 2"])
def test_a_judgement_in_another_order_or_with_more_is_not_read(text):
    with pytest.raises(AnswerUnparsable):
        read_judgement(text)


@pytest.mark.parametrize("verdict", ["1.", "1 (clearly)", "**1**", "１", "01", "1/2", "3", "first", "1 2", ""])
def test_a_verdict_that_is_not_one_is_never_guessed(verdict):
    with pytest.raises(AnswerUnparsable):
        read_judgement(f"##Reason: both are good ##Preferred: {verdict}")


def test_scores_stand_in_the_order_of_the_rubric_and_keep_their_reasons():
    scores = [
        record_pb2.DimensionScore(dimension=d, score=i % 4, rationale="noisy (very) #1" if i == 1 else "")
        for i, d in reversed(list(enumerate(RUBRIC)))
    ]
    read = read_scores(write_scores(record_pb2.Feedback(scores=scores), RUBRIC), RUBRIC)
    assert [s.dimension for s in read.scores] == list(RUBRIC)
    assert read.scores[1].rationale == "noisy very 1"
