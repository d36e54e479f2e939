"""Multiple choice: how choices are shown, and how the choice of a model is read.

A choice is written `A`. A reader also takes what chat models make of that, `A.`, `(A)`, `A)`, `Answer: A`, and each of
these with the words of that very choice behind it. Anything else abstains: the A of "A dog barks" is an article.
"""

import re
from collections.abc import Sequence
from string import ascii_uppercase

from omnialign.modeling.answers import AnswerUnparsable

_CHOICE = re.compile(
    r"(?:(?i:answer):\s*)?(?:\((?P<closed>[A-Z])\)|(?P<open>[A-Z])(?P<mark>[.):]?))(?P<behind>.*)", re.DOTALL
)


def write_choices(choices: Sequence[str]) -> str:
    """The choices, one a line, behind their letters."""
    return "\n".join(f"{letter}. {words}" for letter, words in zip(ascii_uppercase, choices, strict=False))


def write_choice(number: int) -> str:
    """The letter of a choice, counted from 1."""
    return ascii_uppercase[number - 1]


def read_choice(text: str, choices: Sequence[str]) -> int:
    """The number of the chosen one, from 1. Raises AnswerUnparsable: CHOICE_UNKNOWN for a letter that was not shown."""
    found = _CHOICE.fullmatch(text.strip())
    if found is None:
        raise AnswerUnparsable(f"{text.strip()[:40]!r} is not the letter of a choice.")
    letter, behind = found["closed"] or found["open"], found["behind"]
    number = ascii_uppercase.index(letter) + 1
    if behind and not _is_choice(behind, choices[number - 1 : number], marked=bool(found["closed"] or found["mark"])):
        raise AnswerUnparsable(f"{text.strip()[:40]!r} says more than the letter of a choice.")
    if number > len(choices):
        last = write_choice(len(choices))
        raise AnswerUnparsable(f"There is no choice {letter}; the last is {last}.", reason="CHOICE_UNKNOWN")
    return number


def _is_choice(words: str, chosen: Sequence[str], *, marked: bool) -> bool:
    """Whether the words behind a letter are those of its choice, and stand apart from it."""
    plain = [choice.strip().rstrip(".").casefold() for choice in chosen]
    return marked and words[0].isspace() and words.strip().rstrip(".").casefold() in plain
