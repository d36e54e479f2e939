"""Choices in one text or a list, and answers: what can be read in two ways is refused."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnialign.errors import InvalidArgument
from services.data.importing.benchmarks.choices import read_answer, read_choices, read_letter

CHOICES = st.lists(st.from_regex(r"[a-z]+( [a-z]+){0,2}", fullmatch=True), min_size=2, max_size=6, unique=True)


@pytest.mark.parametrize(
    ("found", "expected"),
    [
        ("A. red B. blue", ["red", "blue"]),
        ("A. red\nB. blue\nC. dark green\n", ["red", "blue", "dark green"]),
        ("A) 3.5 B) 4 C) 4.5", ["3.5", "4", "4.5"]),
        ("(A) a dog, (B) a cat; (C) a bird", ["a dog", "a cat", "a bird"]),
        ("A: at 10:30 B: at noon", ["at 10:30", "at noon"]),
        ("A. Washington, D.C. B. Rome", ["Washington, D.C.", "Rome"]),
        (["red", "blue"], ["red", "blue"]),
        (["A. red", "B. blue"], ["red", "blue"]),
        (["A. red", "C. blue"], ["A. red", "C. blue"]),  # not its letters: so they are text
    ],
)
def test_the_forms_of_published_files(found, expected):
    assert read_choices(found, "choice") == expected


@pytest.mark.parametrize(
    ("found", "message"),
    [
        ("red, blue", "do not begin with `A.`"),
        ("B. red A. blue", "do not begin with `A.`"),
        ("A. red", "there are 1 choices"),
        ("A. red C. blue", "the letters of the choices are A, C"),
        ("A. see B. for more B. blue", "the letters of the choices are A, B, B"),
        ("A. by J. Smith B. by K. Jones", "the letters of the choices are A, J, B, K"),
        ("A. red B.", "choice B is empty"),
        ("A. red B. red", "two choices are the same"),
        (["red", ""], "choice B is empty"),
        (["red"], "there are 1 choices"),
        ([1, 2], "the choices are a list"),
        (None, "the choices are"),
    ],
)
def test_what_cannot_be_told_is_refused(found, message):
    with pytest.raises(InvalidArgument, match=message) as refused:
        read_choices(found, "choice")
    assert (refused.value.reason, refused.value.metadata["column"]) == ("CHOICES_INVALID", "choice")


@given(CHOICES, st.sampled_from([". ", ") ", ": "]), st.sampled_from([" ", "\n", ", ", "; "]))
def test_what_is_written_with_letters_is_read_again(choices, mark, between):
    text = between.join(f"{letter}{mark}{one}" for letter, one in zip(string.ascii_uppercase, choices, strict=False))
    assert read_choices(text, "choice") == choices


def test_answers_are_letters_or_where_published_so_the_text_of_a_choice():
    choices = ["red", "blue", "A"]
    assert [read_letter(letter, choices, "answer") for letter in ("A", " B ", "C")] == [1, 2, 3]
    assert read_answer("blue", choices, "answer") == 2
    assert read_answer("A", choices, "answer") == 3  # the text comes before the letter
    for wrong in ("D", "a", "A or B", "blue", "", None, 1):
        with pytest.raises(InvalidArgument) as refused:
            read_letter(wrong, choices, "answer")
        assert refused.value.reason == "ANSWER_INVALID"
