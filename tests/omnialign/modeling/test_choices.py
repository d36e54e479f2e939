"""The letter of a choice is read, and never the article of a sentence."""

from string import ascii_lowercase, ascii_uppercase

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnialign.modeling.answers import AnswerUnparsable
from omnialign.modeling.choices import read_choice, write_choice, write_choices

CHOICES = ["a dog", "A cat.", "a bird", "rain"]
words = st.text(st.sampled_from(ascii_lowercase), min_size=1)


def reason_of(text, choices=CHOICES):
    with pytest.raises(AnswerUnparsable) as caught:
        read_choice(text, choices)
    return caught.value.reason


FORMS = ("{}", "{}.", "({})", "{})", "{}:", " {}\n", "Answer: {}", "answer:{}.", "ANSWER: ({})")
FORMS_WITH_WORDS = ("{}. {words}", "({}) {words}", "Answer: {}) {words}.")


@pytest.mark.parametrize("form", FORMS + FORMS_WITH_WORDS)
def test_a_letter_is_read_in_the_forms_that_chat_models_give_it(form):
    for number, choice in enumerate(CHOICES, start=1):
        text = form.format(write_choice(number), words=choice.upper())
        assert read_choice(text, CHOICES) == number


@pytest.mark.parametrize(
    "text",
    [
        "",
        " ",
        "A dog",
        "A dog barks.",
        "A sound of a bird, so C",
        "The answer is B",
        "B or C",
        "B, C",
        "A B",
        "AB",
        "A. a cat",
        "A.a dog",
        "A: a dog and a cat",
        "(B",
        "B. Because it meows.",
        "B\n\nIt meows.",
        "b",
        "**B**",
        "Answer:",
        "Answer B",
        "Option: B",
        "Not B",
        "В",  # a Cyrillic letter
        "Ｂ",  # a wide letter
        "2",
    ],
)
def test_prose_two_letters_and_anything_else_abstain(text):
    assert reason_of(text) == "ANSWER_UNPARSABLE"


@pytest.mark.parametrize("text", ["E", "E.", "(Z)", "Answer: X"])
def test_a_letter_that_is_no_choice_abstains(text):
    assert reason_of(text) == "CHOICE_UNKNOWN"


def test_a_word_is_not_read_as_its_first_letter():
    assert reason_of("Zebra") == reason_of("Bird") == "ANSWER_UNPARSABLE"


@given(st.lists(words, min_size=2, max_size=6))
def test_a_sentence_that_begins_with_the_article_is_never_a_choice(sentence):
    for text in ("A " + " ".join(sentence), "Answer: A " + " ".join(sentence)):
        assert reason_of(text, [sentence[0], " ".join(sentence)]) == "ANSWER_UNPARSABLE"


@given(st.text(), st.lists(st.text(min_size=1), min_size=2, max_size=26))
def test_any_text_is_either_read_or_a_typed_abstention(text, choices):
    for answer in (text, f"A{text}", f"Answer: {text}"):
        try:
            assert 1 <= read_choice(answer, choices) <= len(choices)
        except AnswerUnparsable as error:
            assert error.reason in ("ANSWER_UNPARSABLE", "CHOICE_UNKNOWN")


@given(st.integers(2, 26), st.data())
def test_what_was_shown_is_read_as_it_was_written(count, data):
    choices = [f"thing {number}" for number in range(count)]
    number = data.draw(st.integers(1, count))
    line = write_choices(choices).splitlines()[number - 1]
    assert read_choice(line, choices) == read_choice(write_choice(number), choices) == number
    assert line.startswith(f"{ascii_uppercase[number - 1]}. ")
