"""The answers of feedback models and judges in sections: one writer and one reader for each kind.

Writers make training targets; readers turn what a model wrote into messages. A reader never guesses: it takes what a
writer writes, with any white space between sections, and nothing around it, beside it or twice. `clarity 3.7`, `3/10`
and `3 or 2` have a 3 in them, and mean something else. An answer that is not in the required form raises
AnswerUnparsable with a reason, and the caller abstains.

    feedback    ##Critique: ... ##Refinement: ... ##Scores: clarity 3, prompt_following 2 (wrong colour)
    scores      ##Scores: ...
    judgement   ##Reason: ... ##Preferred: 1 | 2 | equal
    rating      ##Reason: ... ##Rating: 7

The sections `##Critique:`, `##Refinement:` and `##Reason:` are those of the language feedback in align-anything-200k.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from omnialign.errors import InvalidArgument
from omnialign.rubrics import MAX_SCORE, MIN_SCORE
from omnialign.v1 import record_pb2

MIN_RATING, MAX_RATING = 1, 10

_SECTION = re.compile(r"##(\w+):")
_SCORE = re.compile(r"\s*(\w+) (-?[0-9]{1,9})(?: \(([^()]*)\))?\s*(?:,|\Z)")
_WHOLE_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,8}")
EQUAL = "equal"


class AnswerUnparsable(InvalidArgument):
    """A model's answer is not in the required form; the caller abstains."""

    def __init__(self, message: str, *, reason: str = "ANSWER_UNPARSABLE") -> None:
        super().__init__(message, reason=reason)


@dataclass(frozen=True)
class Judgement:
    """A judge's verdict on two responses: `preferred` is 1 or 2 in the order shown, or 0 if they are equal."""

    preferred: int
    reason: str


@dataclass(frozen=True)
class Rating:
    """A judge's score of a response, 1 (worst) to 10 (best), with its reason."""

    score: int
    reason: str


def write_advice(feedback: record_pb2.Feedback) -> str:
    """Critique and refinement advice, without scores: what a model gets for refining."""
    return f"##Critique: {feedback.critique} ##Refinement: {feedback.refinement}"


def write_scores(feedback: record_pb2.Feedback, rubric: Sequence[str]) -> str:
    """The scores on the dimensions of `rubric`, in its order. Dimensions without a score are left out."""
    by_name = {score.dimension: score for score in feedback.scores}
    return "##Scores: " + ", ".join(_write_score(by_name[name]) for name in rubric if name in by_name)


def write_feedback(feedback: record_pb2.Feedback, rubric: Sequence[str]) -> str:
    """Advice, then scores: a model states what is wrong before it scores."""
    return f"{write_advice(feedback)} {write_scores(feedback, rubric)}"


def write_judgement(reason: str, preferred: int) -> str:
    """A verdict; `preferred` is 1, 2, or 0 for equal."""
    return f"##Reason: {reason} ##Preferred: {preferred or EQUAL}"


def write_rating(reason: str, score: int) -> str:
    """A rating from 1 to 10. A reason that looks like a section loses its marks, or nobody could read the rating."""
    return f"##Reason: {reason.replace('##', '')} ##Rating: {score}"


def read_scores(text: str, rubric: Sequence[str]) -> record_pb2.Feedback:
    """A score on every dimension of `rubric`. Raises AnswerUnparsable."""
    return record_pb2.Feedback(scores=_read_scores(_sections(text, ("Scores",)), rubric))


def read_feedback(text: str, rubric: Sequence[str]) -> record_pb2.Feedback:
    """Critique, refinement advice and a score on every dimension of `rubric`. Raises AnswerUnparsable."""
    sections = _sections(text, ("Critique", "Refinement", "Scores"))
    critique, refinement = (_section(sections, name) for name in ("Critique", "Refinement"))
    return record_pb2.Feedback(critique=critique, refinement=refinement, scores=_read_scores(sections, rubric))


def read_judgement(text: str) -> Judgement:
    """A verdict with its reason. Raises AnswerUnparsable."""
    sections = _sections(text, ("Reason", "Preferred"))
    verdict = _section(sections, "Preferred")
    if verdict not in ("1", "2", EQUAL):
        raise AnswerUnparsable(f"The verdict {verdict[:40]!r} is not 1, 2 or {EQUAL}.", reason="VERDICT_INVALID")
    return Judgement(0 if verdict == EQUAL else int(verdict), _section(sections, "Reason"))


def read_rating(text: str) -> Rating:
    """A whole number from 1 to 10 with its reason. Raises AnswerUnparsable."""
    sections = _sections(text, ("Reason", "Rating"))
    number = _section(sections, "Rating")
    if not _WHOLE_NUMBER.fullmatch(number):
        raise AnswerUnparsable(f"The rating {number[:40]!r} is not a whole number.", reason="SCORE_INVALID")
    return Rating(rating_in_range(int(number)), _section(sections, "Reason"))


def rating_in_range(score: int) -> int:
    """The score. Raises AnswerUnparsable SCORE_OUT_OF_RANGE unless it is 1 to 10."""
    if not MIN_RATING <= score <= MAX_RATING:
        message = f"The rating is not {MIN_RATING} to {MAX_RATING}."
        raise AnswerUnparsable(message, reason="SCORE_OUT_OF_RANGE")
    return score


def _sections(text: str, names: Sequence[str]) -> dict[str, str]:
    """The text of each section by its name. Raises AnswerUnparsable unless they are exactly `names`, in this order."""
    marks = list(_SECTION.finditer(text))
    starts = [mark.start() for mark in marks] + [len(text)]
    sections = {mark[1]: text[mark.end() : end].strip() for mark, end in zip(marks, starts[1:], strict=True)}
    if len(sections) != len(marks):
        raise AnswerUnparsable("The answer repeats a section.", reason="SECTION_REPEATED")
    if missing := [name for name in names if name not in sections]:
        raise AnswerUnparsable(f"The answer has no section ##{missing[0]}:.", reason="SECTION_MISSING")
    if list(sections) != list(names) or text[: starts[0]].strip():
        raise AnswerUnparsable(f"The answer has more than the sections {', '.join(names)}, in this order.")
    return sections


def _section(sections: dict[str, str], name: str) -> str:
    if not sections.get(name):
        raise AnswerUnparsable(f"The answer has no section ##{name}:.", reason="SECTION_MISSING")
    return sections[name]


def _scores(text: str) -> Iterator[tuple[str, str, str]]:
    """Dimension, score and rationale of each entry of a list. Raises AnswerUnparsable for anything else in it."""
    place = 0
    while place < len(text):
        if (entry := _SCORE.match(text, place)) is None or (entry.end() == len(text) and text.endswith(",")):
            raise AnswerUnparsable(f"{text[place : place + 40]!r} is not a dimension with its score.")
        yield entry[1], entry[2], entry[3] or ""
        place = entry.end()


def _write_score(score: record_pb2.DimensionScore) -> str:
    rationale = re.sub(r"[()#]", "", score.rationale)
    return f"{score.dimension} {score.score}" + (f" ({rationale})" if rationale else "")


def _read_scores(sections: dict[str, str], rubric: Sequence[str]) -> list[record_pb2.DimensionScore]:
    found: dict[str, record_pb2.DimensionScore] = {}
    for name, value, rationale in _scores(_section(sections, "Scores")):
        if not MIN_SCORE <= int(value) <= MAX_SCORE:
            raise AnswerUnparsable(f"The score {value} of {name} is not 0 to 3.", reason="SCORE_OUT_OF_RANGE")
        if name in found or name not in rubric:
            raise AnswerUnparsable(f"The answer scores {name[:40]} twice, or was not asked to.")
        found[name] = record_pb2.DimensionScore(dimension=name, score=int(value), rationale=rationale)
    if missing := [name for name in rubric if name not in found]:
        raise AnswerUnparsable(f"The answer does not score {', '.join(missing)}.", reason="DIMENSION_MISSING")
    return [found[name] for name in rubric]
