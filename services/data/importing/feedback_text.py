"""The sections of language feedback in one text: `##Critique: ... ##Refinement: ...` and `##Reason: ...`."""

import re
from dataclasses import dataclass

MARKER = re.compile(r"##[ \t]*(critique|refinement|reason)[ \t]*:", re.IGNORECASE)


@dataclass(frozen=True)
class FeedbackText:
    """What a feedback text says, by section; empty where a section is missing."""

    critique: str = ""
    refinement: str = ""
    reason: str = ""


def read_feedback_text(text: str) -> FeedbackText:
    """Splits a feedback text at its markers. Text before the first marker, or without any, is critique."""
    pieces = MARKER.split(text)
    sections = {"critique": [pieces[0]], "refinement": [], "reason": []}
    for name, body in zip(pieces[1::2], pieces[2::2], strict=True):
        sections[name.lower()].append(body)
    joined = {name: "\n".join(filter(None, map(str.strip, bodies))) for name, bodies in sections.items()}
    return FeedbackText(**joined)


def read_verdict_text(text: str) -> str:
    """The words of an overall feedback, why first and how to improve after it, without their markers."""
    found = read_feedback_text(text)
    return "\n".join(filter(None, (found.critique, found.reason, found.refinement)))
