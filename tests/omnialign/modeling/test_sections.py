"""Answers in sections: a response, and instructions for generators."""

import pytest

from omnialign.content import LETTERS
from omnialign.modeling.answers import AnswerUnparsable
from omnialign.modeling.prompts import render_agents
from omnialign.modeling.sections import read_sections

AGENT = """[output_format]
[[response]]: Look at the two birds, and listen.
[[image_instruction]]: two herons on a lake
at dawn
[[audio_instruction]]: None
[/output_format]"""


def test_the_prompt_shows_the_form_that_is_read():
    rendered = render_agents(("Explain herons.",), [LETTERS["i"], LETTERS["a"]])
    assert rendered.template.startswith("agents@1:")
    ((text,),) = [turn.pieces for turn in rendered.turns]
    assert "image, audio" in text
    form = text.partition("after them:\n")[2].partition("\n##Request: Explain herons.")[0]
    assert set(read_sections(form, "ia").instructions) == {"i", "a"}


def test_an_answer_in_sections_has_those_that_are_not_none():
    found = read_sections(AGENT, "ia")
    assert found.instructions == {"i": "two herons on a lake\nat dawn"}
    assert found.response == "Look at the two birds, and listen."
    assert found.combination == "ti"


@pytest.mark.parametrize("word", ["None", "none.", " NONE ", "<None>", ""])
def test_ways_to_say_none(word):
    text = f"[[response]]: {word}\n[[image_instruction]]: {word}\n[[audio_instruction]]: a bell"
    assert read_sections(text, "ia").combination == "a"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "Here is a picture of a bell.",
        "[[response]]: hello",  # cut off
        "[[response]]: hello\n[[image_instruction]]: None\n[[audio_instruction",
        "[[response]]: a\n[[audio_instruction]]: b\n[[image_instruction]]: c",  # another order
        "Sure!\n[[response]]: a\n[[image_instruction]]: b\n[[audio_instruction]]: c",
        "[[response]]: a\n[[image_instruction]]: b\n[[audio_instruction]]: c\n[[video_instruction]]: d",  # uncalled for
        "[[response]]: a\n[[response]]: a\n[[image_instruction]]: b\n[[audio_instruction]]: c",
    ],
)
def test_what_is_not_the_sections_alone_is_unreadable(text):
    with pytest.raises(AnswerUnparsable) as refused:
        read_sections(text, "ia")
    assert refused.value.reason == "SECTIONS_INVALID"
