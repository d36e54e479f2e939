"""Ratings from 1 to 10, in sections and in JSON: read as written, and anything else is a typed abstention."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnialign.modeling import answers_json
from omnialign.modeling.answers import AnswerUnparsable, read_rating, write_rating

reasons = st.text(st.characters(categories=("Ll", "Lu", "Nd"), include_characters=" .,'#:"), min_size=1).filter(
    lambda text: text.replace("##", "").strip()
)
NUMBERS = ["NaN", "[[7]]", "[[11]]", "7.5", "7.0", "7/10", "7 of 10", "7.", "07", "+7", "７", "1e1", "seven", "", "7 8"]


def reason_of(read, text):
    with pytest.raises(AnswerUnparsable) as caught:
        read(text)
    return caught.value.reason


@given(reasons, st.integers(1, 10))
def test_a_rating_is_read_as_it_was_written_whatever_its_reason_says(reason, score):
    rating = read_rating(write_rating(reason, score))
    assert (rating.score, rating.reason) == (score, reason.replace("##", "").strip())


@given(st.text() | st.builds("##Reason: {} ##Rating: {}".format, st.text(), st.text()))
def test_any_text_is_either_read_or_a_typed_abstention(text):
    for read in (read_rating, answers_json.read_rating):
        try:
            assert 1 <= read(text).score <= 10
        except AnswerUnparsable as error:
            assert error.reason.isupper()


@pytest.mark.parametrize("number", NUMBERS)
def test_a_number_in_another_form_is_no_rating(number):
    assert reason_of(read_rating, f"##Reason: a ##Rating: {number}") in ("SCORE_INVALID", "SECTION_MISSING")


@pytest.mark.parametrize("number", [0, 11, -7, 100, 999_999_999])
def test_a_rating_off_the_scale_abstains_and_is_never_moved_onto_it(number):
    assert reason_of(read_rating, f"##Reason: a ##Rating: {number}") == "SCORE_OUT_OF_RANGE"
    answer = json.dumps({"reason": "a", "rating": number})
    assert reason_of(answers_json.read_rating, answer) == "SCORE_OUT_OF_RANGE"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "NaN",
        "7",
        "[[7]]",
        "I would say Rating: 7/10, it is fine.",
        "##Rating: 7",
        "##Rating: 7 ##Reason: a",
        "##Reason: ##Rating: 7",
        "##Reason: a ##Rating: 7 ##Rating: 8",
        "##Reason: a ##Rating: 7 ##Note: b",
        "Sure! ##Reason: a ##Rating: 7",
        "##Reason: a ##Rat",
    ],
)
def test_prose_half_an_answer_and_more_than_an_answer_abstain(text):
    assert reason_of(read_rating, text).isupper()
    assert reason_of(answers_json.read_rating, text).isupper()


@given(st.integers(1, 10), reasons.map(str.strip), st.booleans())
def test_json_that_the_schema_admits_is_read_as_it_was_written(score, reason, fenced):
    answer = json.dumps({"reason": reason, "rating": score})
    rating = answers_json.read_rating(f"```json\n{answer}\n```" if fenced else answer)
    assert (rating.score, rating.reason) == (score, reason)
    schema = json.loads(answers_json.rating_schema())
    assert score in schema["properties"]["rating"]["enum"]
    assert (schema["required"], schema["additionalProperties"]) == (["reason", "rating"], False)


@pytest.mark.parametrize("value", ["7", 7.0, 7.5, True, None, [7], [[11]], {"score": 7}])
def test_a_json_value_that_is_no_whole_number_is_no_rating(value):
    assert reason_of(answers_json.read_rating, json.dumps({"reason": "a", "rating": value})) == "SCORE_INVALID"


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"reason": "a", "rating": NaN}', "ANSWER_NOT_JSON"),
        ('{"reason": "a", "rating": 7', "ANSWER_NOT_JSON"),
        ('{"reason": "a", "rating": 7} or 8', "ANSWER_NOT_JSON"),
        ('{"reason": "a", "rating": 7, "sure": true}', "ANSWER_NOT_JSON"),
        ('{"reason": "a", "rating": 7, "rating": 8}', "SECTION_REPEATED"),
        ('{"rating": 7}', "SECTION_MISSING"),
        ('{"reason": " ", "rating": 7}', "SECTION_MISSING"),
        ('{"reason": "a"}', "SCORE_INVALID"),
    ],
)
def test_json_out_of_form_says_why(text, reason):
    assert reason_of(answers_json.read_rating, text) == reason
