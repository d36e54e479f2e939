"""Language feedback as one text, in the sections `##Critique:`, `##Refinement:` and `##Reason:`.

They are those of align-anything-200k. Text before the first of them, or without any, is critique.
"""

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
    if "##" not in text:
        return FeedbackText(critique=text.strip())
    pieces = MARKER.split(text)
    sections = {"critique": [pieces[0]], "refinement": [], "reason": []}
    for name, body in zip(pieces[1::2], pieces[2::2], strict=True):
        sections[name.lower()].append(body)
    joined = {name: "\n".join(filter(None, map(str.strip, bodies))) for name, bodies in sections.items()}
    return FeedbackText(**joined)


def read_verdict_text(text: str) -> str:
    """An overall feedback without its markers: first why, then how to improve."""
    found = read_feedback_text(text)
    return "\n".join(filter(None, (found.critique, found.reason, found.refinement)))


def write_feedback_text(critique: str, refinement: str) -> str:
    """Critique and advice as a text that `read_feedback_text` takes apart again; "" for neither."""
    return f"##Critique: {critique} ##Refinement: {refinement}" if critique or refinement else ""


def write_verdict_text(reason: str) -> str:
    """The reason of a preference as a text that `read_verdict_text` takes apart again; "" for none."""
    return f"##Reason: {reason}" if reason else ""
