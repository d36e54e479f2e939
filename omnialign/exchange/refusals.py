"""What is not taken of a file: where it is, what was found there, and what would be taken."""

import reprlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from omnialign.errors import InvalidArgument

_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxdict, _SHORT.maxstring, _SHORT.maxother = 3, 6, 80, 80


@dataclass(frozen=True)
class Problem:
    """What is wrong at one place of a task."""

    place: str
    """The column or question."""
    found: str
    wanted: str
    """What would be taken."""
    reason: str = "ANSWER_INVALID"


class Refused(ValueError):
    """A task or an annotation that is not taken."""

    def __init__(self, problems: Sequence[Problem]) -> None:
        super().__init__("; ".join(f"{one.place}: {one.found}" for one in problems))
        self.problems = tuple(problems)


@dataclass(frozen=True)
class Refusal:
    """A problem in a file."""

    file: str
    task: int
    """The place of the task in the file, from 1."""
    annotator: str
    """Whose annotation; empty if it is the whole task."""
    problem: Problem

    def __str__(self) -> str:
        """One line for people."""
        who = f", annotation of {self.annotator}" if self.annotator else ""
        one = self.problem
        return (
            f"{self.file}: task {self.task}{who}, {one.place}: found {one.found}; taken is {one.wanted} [{one.reason}]"
        )


def found_text(value: Any) -> str:
    """A value of a file as a message shows it, however large it is."""
    return _SHORT.repr(value)


def unreadable(file: str, what: str, *, reason: str = "FILE_UNREADABLE") -> InvalidArgument:
    """A file that is not read at all."""
    return InvalidArgument(f"'{file}' is not imported: {what}.", reason=reason, metadata={"file": file})
