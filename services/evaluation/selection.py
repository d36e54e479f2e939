"""Which modalities a model chose for its answer, and how many people would have chosen the same.

The score of an answer is α, the share of votes for the combination of modalities in it. An answer in all three of
text, a visual and an auditory modality scores α / 3, so that saying everything in every way does not pay (arXiv
2412.15838; the published script leaves this rule out). An empty answer chose nothing, and nobody voted for that: 0.

A model that cannot write media writes instructions for generators, in sections (`agents` mode), each of which may be
`None`. The reader takes these sections in this order and nothing beside them; what cannot be read has no combination.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from omnialign.combinations import check_shares, combination
from omnialign.content import LETTERS, NAMES
from omnialign.modeling.answers import AnswerUnparsable

RESPONSE = "response"
VISUAL = ("i", "v")
_SECTION = re.compile(r"\[\[(\w+)\]\]:")
_OPENING, _CLOSING = "[output_format]", "[/output_format]"
_NONE = "none"


@dataclass(frozen=True)
class Sections:
    """An answer of `agents` mode."""

    response: str
    """The text; "" for none."""
    instructions: Mapping[str, str]
    """What each generator is to make, by letter of its modality; those with nothing to make are left out."""

    @property
    def combination(self) -> str:
        """The modalities that the answer chose."""
        return combination([*(["t"] if self.response else []), *self.instructions])


def read_sections(text: str, offered: Sequence[str]) -> Sections:
    """The sections `[[response]]:`, then `[[image_instruction]]:` and so on for the letters in `offered`, in order.

    Raises AnswerUnparsable: SECTIONS_INVALID for other sections, twice the same or text before the first one.
    """
    body = text.strip()
    if body.startswith(_OPENING) and body.endswith(_CLOSING):
        body = body[len(_OPENING) : -len(_CLOSING)].strip()
    before, *found = _SECTION.split(body)
    names, contents = found[::2], found[1::2]
    expected = [RESPONSE, *(f"{NAMES[LETTERS[letter]]}_instruction" for letter in offered)]
    if before or names != expected:
        wanted = ", ".join(f"[[{name}]]:" for name in expected)
        raise AnswerUnparsable(f"The answer is not the sections {wanted} alone.", reason="SECTIONS_INVALID")
    response, *instructions = (_content(one) for one in contents)
    return Sections(response, {letter: one for letter, one in zip(offered, instructions, strict=True) if one})


def selection_score(chosen: str, shares: Mapping[str, float], *, third: bool = True) -> float:
    """α of the combination `chosen`, 0 to 1; a third of it for all three modalities, unless `third` is off.

    Where the votes name one visual modality, images or videos, the other one counts as the same: voters were asked for
    something to look at. Raises InvalidArgument (SHARES_INVALID).
    """
    check_shares(shares)
    named = [letter for letter in VISUAL if any(letter in votes for votes in shares)]
    if len(named) == 1:
        chosen = combination(named[0] if letter in VISUAL else letter for letter in chosen)
    share = shares.get(chosen, 0.0)
    is_everything = {"t", "a"} <= set(chosen) and not set(VISUAL).isdisjoint(chosen)
    return share / 3 if third and is_everything else share


def _content(section: str) -> str:
    """The text of a section; "" for `None`."""
    text = section.strip()
    return "" if text.strip("<>\"'`. ").casefold() == _NONE else text
