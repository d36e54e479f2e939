"""Choices of a multiple-choice question, and the right one. What can be read in two ways is refused, never guessed.

Published files have the choices in a list, with or without their letters, or in one text: `A. red B. blue`.
"""

import re
import string
from collections.abc import Sequence
from typing import Any

from omnialign.errors import InvalidArgument
from services.data.importing.benchmarks.values import is_list_of_text
from services.data.importing.refusal import described, refusal

MIN_CHOICES = 2
_FIRST = re.compile(r"\s*\(?A(?P<mark>[.):])")
_LETTERED = re.compile(r"\(?(?P<letter>[A-Z])(?P<mark>[.):])\s*(?P<text>.*)", re.DOTALL)


def read_choices(found: Any, column: str) -> list[str]:
    """The choices in order, without their letters. Raises CHOICES_INVALID."""
    if isinstance(found, str):
        choices = _split(found, column)
    elif is_list_of_text(found):
        choices = _unlettered([one.strip() for one in found])
    else:
        raise _invalid(f"the choices are {described(found)}, and a list of texts or `A. red B. blue` is taken", column)
    if not MIN_CHOICES <= len(choices) <= len(string.ascii_uppercase):
        raise _invalid(f"there are {len(choices)} choices, and {MIN_CHOICES} to 26 are taken", column)
    if not all(choices):
        raise _invalid(f"choice {string.ascii_uppercase[choices.index('')]} is empty", column)
    if len(set(choices)) < len(choices):
        raise _invalid("two choices are the same", column)
    return choices


def read_letter(found: Any, choices: Sequence[str], column: str) -> int:
    """The number, from 1, of the choice that a letter names. Raises ANSWER_INVALID."""
    letters = string.ascii_uppercase[: len(choices)]
    letter = found.strip() if isinstance(found, str) else ""
    if len(letter) != 1 or letter not in letters:
        raise _wrong(found, f"one of the letters {letters[0]} to {letters[-1]}", column)
    return letters.index(letter) + 1


def read_answer(found: Any, choices: Sequence[str], column: str) -> int:
    """The number, from 1, of the choice that is this text, or else that a letter names. Raises ANSWER_INVALID."""
    if isinstance(found, str) and found.strip() in choices:
        return choices.index(found.strip()) + 1
    return read_letter(found, choices, column)


def _split(text: str, column: str) -> list[str]:
    """The choices in one text. Each letter must stand exactly once, in order, with the mark of the first."""
    opening = _FIRST.match(text)
    if opening is None:
        raise _invalid("the choices do not begin with `A.`, `A)` or `A:`", column)
    pieces = re.split(rf"(?:\A|(?<=[\s,;]))\s*\(?([A-Z]){re.escape(opening['mark'])}(?=\s|\Z)\s*", text)
    letters, choices = pieces[1::2], pieces[2::2]
    if "".join(letters) != string.ascii_uppercase[: len(letters)]:
        raise _invalid(f"the letters of the choices are {', '.join(letters)}: each is taken once, in order", column)
    last = len(choices) - 1
    return [one.strip() if i == last else one.strip().rstrip(",;").strip() for i, one in enumerate(choices)]


def _unlettered(choices: list[str]) -> list[str]:
    """The choices without their letters, if all have the right ones and the same mark."""
    found = [_LETTERED.fullmatch(one) for one in choices]
    matches = [match for match in found if match is not None]
    letters = "".join(match["letter"] for match in matches)
    is_lettered = letters == string.ascii_uppercase[: len(choices)] and len({match["mark"] for match in matches}) == 1
    return [match["text"].strip() for match in matches] if is_lettered else choices


def _invalid(message: str, column: str) -> InvalidArgument:
    return refusal("CHOICES_INVALID", message, column=column)


def _wrong(found: Any, wanted: str, column: str) -> InvalidArgument:
    shown = repr(found[:100]) if isinstance(found, str) else described(found)
    return refusal("ANSWER_INVALID", f"the answer is {shown}, and {wanted} is taken", column=column)
