"""Reading the sections of language feedback."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from omnialign.feedback_text import FeedbackText, read_feedback_text, read_verdict_text

WORDS = st.text().filter(lambda text: "#" not in text).map(str.strip)


@given(critique=WORDS, refinement=WORDS, reason=WORDS)
def test_what_was_written_in_sections_is_read_back(critique: str, refinement: str, reason: str) -> None:
    text = f"##Critique: {critique}\n##Reason: {reason} ##Refinement: {refinement}\n"
    assert read_feedback_text(text) == FeedbackText(critique=critique, refinement=refinement, reason=reason)


@given(st.text())
def test_any_text_is_read_and_text_without_markers_is_critique(text: str) -> None:
    found = read_feedback_text(text)
    if "##" not in text:
        assert found == FeedbackText(critique=text.strip())


@pytest.mark.parametrize(
    "text",
    [
        "##Critique: too dark ##Refinement: add light",
        "## critique : too dark\n##REFINEMENT:add light",
        "##Refinement: add light\n\n##Critique: too dark",
        "too dark ##Refinement: add light",
    ],
)
def test_spelling_and_order_of_the_markers_do_not_matter(text: str) -> None:
    assert read_feedback_text(text) == FeedbackText(critique="too dark", refinement="add light")


def test_a_verdict_is_its_words_without_markers() -> None:
    assert read_verdict_text("##Reason: 1 is right. ##Refinement: say more.") == "1 is right.\nsay more."
    assert read_verdict_text(" plain words ") == "plain words"
