"""The form of an annotation as a flat list of questions, which every tool has: choices and texts.

Marks in media are no questions; each codec writes them as its tool does.
"""

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from omnialign.exchange.refusals import Problem, found_text
from omnialign.v1.annotation_pb2 import Annotation, Rubric
from omnialign.v1.record_pb2 import DimensionScore, Feedback

SIDES = (1, 2)
MAX_CHARACTERS = 20_000
"""Longest text of an annotation, as the annotation service takes it."""
SCORES = ("0", "1", "2", "3")
WINNERS = {"1": "Response 1", "0": "equal", "2": "Response 2"}
PREFERRED = {"1": "Response 1", "2": "Response 2"}


class Kind(enum.Enum):
    """What an answer is about; its value begins the name of a question."""

    SCORE = "score"
    RATIONALE = "rationale"
    WINNER = "winner"
    CRITIQUE = "critique"
    REFINEMENT = "refinement"
    PREFERRED = "preferred"
    REASON = "reason"


@dataclass(frozen=True)
class Question:
    """One question of the form."""

    kind: Kind
    title: str
    side: int = 0
    """The response that it is about, 1 or 2; 0 for both."""
    dimension: str = ""
    choices: Mapping[str, str] | None = field(default=None, hash=False)
    """What can be chosen, with the words that are shown; None for a text."""
    is_required: bool = True

    @property
    def name(self) -> str:
        """Its name, such as `score_1_clarity`."""
        return "_".join(filter(None, (self.kind.value, str(self.side or ""), self.dimension)))


def questions(rubric: Rubric) -> list[Question]:
    """The form of a rubric, in the order in which it is filled in."""
    found = list[Question]()
    for one in rubric.dimensions:
        words = one.name.replace("_", " ")
        levels = [*one.levels, *("" for _ in SCORES)]
        scores = {score: f"{score} {level}".rstrip() for score, level in zip(SCORES, levels, strict=False)}
        for side in SIDES:
            found.append(Question(Kind.SCORE, f"Response {side}: {words}", side, one.name, scores))
            title = f"Why, for response {side}: {words}"
            found.append(Question(Kind.RATIONALE, title, side, one.name, is_required=False))
        found.append(Question(Kind.WINNER, f"Better: {words}", dimension=one.name, choices=WINNERS))
    for side in SIDES:
        found.append(Question(Kind.CRITIQUE, f"Critique: what is good and bad in response {side}", side))
        found.append(Question(Kind.REFINEMENT, f"Refinement advice: how to improve response {side}", side))
    found.append(Question(Kind.PREFERRED, "The better response", choices=PREFERRED))
    found.append(Question(Kind.REASON, "Why it is better, and how to improve it"))
    return found


def answers_of(annotation: Annotation, rubric: Rubric) -> Iterator[tuple[Question, str]]:
    """The answers of an annotation to the questions of its form; those without an answer are left out."""
    for question in questions(rubric):
        if answer := _answer(annotation, question):
            yield question, answer


def annotation_of(answers: Mapping[str, Any], rubric: Rubric) -> tuple[Annotation, list[Problem]]:
    """The annotation in answers by the name of their question, and what is wrong with them."""
    problems = list[Problem]()
    read = dict[Question, str]()
    form = questions(rubric)
    names = {question.name for question in form}
    for name in answers:
        if name not in names:
            problems.append(Problem(name, "a question that the form has not", "questions of the rubric"))
    for question in form:
        value = answers.get(question.name)
        problem = (_wrong_text if question.choices is None else _wrong_choice)(question, value)
        if problem:
            problems.append(problem)
        elif value is not None:
            read[question] = str(value)
    return _annotation(read), problems


def _answer(annotation: Annotation, question: Question) -> str:
    sides = len(annotation.feedback)
    feedback = annotation.feedback[question.side - 1] if 0 < question.side <= sides else Feedback()
    score = next((one for one in feedback.scores if one.dimension == question.dimension), None)
    match question.kind:
        case Kind.SCORE:
            return "" if score is None else str(score.score)
        case Kind.RATIONALE:
            return "" if score is None else score.rationale
        case Kind.WINNER:
            has_winner = question.dimension in annotation.winners
            return str(annotation.winners[question.dimension]) if has_winner else ""
        case Kind.CRITIQUE:
            return feedback.critique
        case Kind.REFINEMENT:
            return feedback.refinement
        case Kind.PREFERRED:
            return str(annotation.preferred or "")
        case Kind.REASON:
            return annotation.reason


def _annotation(answers: Mapping[Question, str]) -> Annotation:
    made = Annotation(feedback=[Feedback() for _ in SIDES])
    scores = dict[tuple[int, str], DimensionScore]()
    for question, answer in answers.items():
        feedback = made.feedback[max(question.side, 1) - 1]
        match question.kind:
            case Kind.SCORE:
                score = feedback.scores.add(dimension=question.dimension, score=int(answer))
                scores[question.side, question.dimension] = score
            case Kind.RATIONALE:
                if (question.side, question.dimension) in scores:
                    scores[question.side, question.dimension].rationale = answer
            case Kind.WINNER:
                made.winners[question.dimension] = int(answer)
            case Kind.CRITIQUE:
                feedback.critique = answer
            case Kind.REFINEMENT:
                feedback.refinement = answer
            case Kind.PREFERRED:
                made.preferred = int(answer)
            case Kind.REASON:
                made.reason = answer
    return made


def _wrong_choice(question: Question, value: Any) -> Problem | None:
    wanted = "one of " + ", ".join(question.choices or ())
    if value is None:
        return Problem(question.name, "nothing", wanted)
    is_text_or_number = isinstance(value, str | int) and not isinstance(value, bool)
    if not is_text_or_number or str(value) not in (question.choices or ()):
        return Problem(question.name, found_text(value), wanted)
    return None


def _wrong_text(question: Question, value: Any) -> Problem | None:
    if value is None:
        return Problem(question.name, "nothing", "a text") if question.is_required else None
    if not isinstance(value, str):
        return Problem(question.name, found_text(value), "a text")
    if question.is_required and not value.strip():
        return Problem(question.name, "blanks only", "a text")
    if len(value) > MAX_CHARACTERS:
        return Problem(question.name, f"{len(value)} characters", f"a text of up to {MAX_CHARACTERS}")
    if any("\ud800" <= character <= "\udfff" for character in value):
        return Problem(question.name, "half a character (a lone surrogate)", "a text in Unicode")
    return None
