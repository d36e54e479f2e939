"""The answer of a model that cannot write media: a response, and instructions for generators (`agents` mode).

    [[response]]: Two herons at dawn. Listen to their call.
    [[image_instruction]]: two grey herons on a misty lake at dawn
    [[audio_instruction]]: None

The form is that of arXiv 2412.15838. The reader never guesses: it takes these sections in this order and nothing beside
them; what cannot be read is no answer.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omnialign.combinations import combination
from omnialign.content import LETTERS, NAMES
from omnialign.modeling.answers import AnswerUnparsable

RESPONSE = "response"
_SECTION = re.compile(r"\[\[(\w+)\]\]:")
_OPENING, _CLOSING = "[output_format]", "[/output_format]"
_NONE = "none"


@dataclass(frozen=True)
class Sections:
    """What the model chose."""

    response: str
    """The text; "" for none."""
    instructions: Mapping[str, str]
    """What each generator is to make, by letter of its modality; those with nothing to make are left out."""

    @property
    def combination(self) -> str:
        """The modalities that the answer chose."""
        return combination([*(["t"] if self.response else []), *self.instructions])


def section_names(offered: Sequence[str]) -> list[str]:
    """The names of the sections, for generators of the modalities with these letters."""
    return [RESPONSE, *(f"{NAMES[LETTERS[letter]]}_instruction" for letter in offered)]


def write_form(offered: Sequence[str]) -> str:
    """The form of the answer, as the prompt shows it."""
    what = ["<the response>", *("<the instruction>" for _ in offered)]
    lines = (f"[[{name}]]: {words} or None" for name, words in zip(section_names(offered), what, strict=True))
    return "\n".join(lines)


def read_sections(text: str, offered: Sequence[str]) -> Sections:
    """The sections `[[response]]:`, then `[[image_instruction]]:` and so on for the letters in `offered`, in order.

    Raises AnswerUnparsable: SECTIONS_INVALID for other sections, twice the same or text before the first one.
    """
    body = text.strip()
    if body.startswith(_OPENING) and body.endswith(_CLOSING):
        body = body[len(_OPENING) : -len(_CLOSING)].strip()
    before, *found = _SECTION.split(body)
    names, contents = found[::2], found[1::2]
    expected = section_names(offered)
    if before or names != expected:
        wanted = ", ".join(f"[[{name}]]:" for name in expected)
        raise AnswerUnparsable(f"The answer is not the sections {wanted} alone.", reason="SECTIONS_INVALID")
    response, *instructions = (_content(one) for one in contents)
    return Sections(response, {letter: one for letter, one in zip(offered, instructions, strict=True) if one})


def _content(section: str) -> str:
    """The text of a section; "" for `None`."""
    text = section.strip()
    return "" if text.strip("<>\"'`. ").casefold() == _NONE else text
