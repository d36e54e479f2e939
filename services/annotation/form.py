"""What an annotation must be: within its rubric and its media, and before it is submitted, complete."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from omnialign.annotation_parts import all_parts
from omnialign.content import LETTERS, NAMES
from omnialign.errors import InvalidArgument
from omnialign.v1 import content_pb2, record_pb2
from omnialign.v1.annotation_pb2 import Annotation, Rubric

SIDES = (1, 2)
MAX_CHARACTERS = 20_000
"""Longest text of an annotation."""
MAX_BYTES = 512 * 1024
_LETTER = {modality: letter for letter, modality in LETTERS.items()}
_BETWEEN = ">"

Problem = tuple[str, str]


@dataclass(frozen=True)
class Shape:
    """The modality letters of the parts of a prompt and its two responses, such as `ti`, `t`, `t`."""

    messages: tuple[str, str, str]

    @classmethod
    def of(cls, record: record_pb2.Record) -> "Shape":
        """The shape of a pair."""
        prompt, first, second = (_letters(m) for m in (record.prompt, *(r.content for r in record.responses[:2])))
        return cls((prompt, first, second))

    @classmethod
    def read(cls, text: str) -> "Shape":
        """The inverse of `str`."""
        prompt, first, second = text.split(_BETWEEN)
        return cls((prompt, first, second))

    def swapped(self) -> "Shape":
        """The shape with the second response first."""
        prompt, first, second = self.messages
        return Shape((prompt, second, first))

    def __str__(self) -> str:
        """As it is stored."""
        return _BETWEEN.join(self.messages)


def check_draft(annotation: Annotation, rubric: Rubric, shape: Shape) -> None:
    """Raises InvalidArgument ANNOTATION_INVALID for what could never be submitted."""
    _raise(list(_wrong(annotation, _names(rubric), shape)), reason="ANNOTATION_INVALID")


def check_complete(annotation: Annotation, rubric: Rubric, shape: Shape) -> None:
    """Raises InvalidArgument: ANNOTATION_INVALID as `check_draft`, ANNOTATION_INCOMPLETE for what is missing."""
    check_draft(annotation, rubric, shape)
    _raise(list(_missing(annotation, _names(rubric))), reason="ANNOTATION_INCOMPLETE")


def _wrong(annotation: Annotation, names: Sequence[str], shape: Shape) -> Iterator[Problem]:
    if annotation.ByteSize() > MAX_BYTES:
        yield "annotation", f"is {annotation.ByteSize()} bytes, and {MAX_BYTES} are taken"
    known = all_parts(names) if annotation.origins else set()
    for part in annotation.origins:
        if part not in known:
            yield f'annotation.origins["{part[:64]}"]', "is no part of the form"
    for name in annotation.winners:
        if name not in names:
            yield f'annotation.winners["{name[:64]}"]', f"is not a dimension of the rubric: {', '.join(names)}"
    for index, feedback in enumerate(annotation.feedback):
        field = f"annotation.feedback[{index}]"
        if feedback.HasField("generation"):
            yield f"{field}.generation", "must not be set, because no model wrote this"
        scored = [score.dimension for score in feedback.scores]
        for name in dict.fromkeys(scored):
            if name not in names:
                yield f"{field}.scores", f"{name[:64]!r} is not a dimension of the rubric: {', '.join(names)}"
            elif scored.count(name) > 1:
                yield f"{field}.scores", f"{name} is scored twice"
        for score in feedback.scores:
            if score.unscored and score.score:
                yield f"{field}.scores", f"{score.dimension[:64]} is unscored, and has the score {score.score}"
        texts = {"critique": feedback.critique, "refinement": feedback.refinement}
        texts |= {f"scores[{n}].rationale": score.rationale for n, score in enumerate(feedback.scores)}
        for name, text in texts.items():
            if len(text) > MAX_CHARACTERS:
                yield f"{field}.{name}", f"has {len(text)} characters, and {MAX_CHARACTERS} are taken"
        for place, mark in enumerate(feedback.marks):
            yield from _wrong_mark(f"{field}.marks[{place}]", mark, names, shape, side=index + 1)


def _wrong_mark(
    field: str, mark: record_pb2.Mark, names: Sequence[str], shape: Shape, *, side: int
) -> Iterator[Problem]:
    parts = shape.messages[0 if mark.in_prompt else side]
    letter = parts[mark.part : mark.part + 1]
    if not letter:
        yield f"{field}.part", f"is {mark.part}, and the message has {len(parts)} parts"
    elif letter not in ("av" if mark.WhichOneof("place") == "span" else "i"):
        yield field, f"does not fit part {mark.part}, which is {NAMES[LETTERS[letter]]}: spans are of sounds and videos"
    if mark.dimension and mark.dimension not in names:
        yield f"{field}.dimension", f"is not a dimension of the rubric: {', '.join(names)}"
    if mark.HasField("span") and mark.span.end_seconds < mark.span.start_seconds:
        yield f"{field}.span", "ends before it begins"
    region = mark.region
    if mark.HasField("region") and max(region.left + region.width, region.top + region.height) > 1 + 1e-6:
        yield f"{field}.region", "reaches beyond the picture"


def _missing(annotation: Annotation, names: Sequence[str]) -> Iterator[Problem]:
    if not annotation.preferred:
        yield "annotation.preferred", "must be 1 or 2"
    if not annotation.reason.strip():
        yield "annotation.reason", "must say why the response is preferred"
    if undecided := [name for name in names if name not in annotation.winners]:
        yield "annotation.winners", f"lacks {', '.join(undecided)}"
    if len(annotation.feedback) != len(SIDES):
        yield "annotation.feedback", "must be on both responses"
    for index, feedback in enumerate(annotation.feedback):
        field = f"annotation.feedback[{index}]"
        scored = {score.dimension for score in feedback.scores if not score.unscored}
        explained = {score.dimension for score in feedback.scores if score.unscored and score.rationale.strip()}
        if unscored := [name for name in names if name not in scored]:
            words = [f"{name} (it has only a rationale)" if name in explained else name for name in unscored]
            yield f"{field}.scores", f"lacks {', '.join(words)}"
        for name in ("critique", "refinement"):
            if not getattr(feedback, name).strip():
                yield f"{field}.{name}", "must not be empty"


def _raise(problems: list[Problem], *, reason: str) -> None:
    if problems:
        text = "; ".join(f"{field}: {problem}" for field, problem in problems)
        raise InvalidArgument(text, reason=reason, violations=problems)


def _names(rubric: Rubric) -> list[str]:
    return [dimension.name for dimension in rubric.dimensions]


def _letters(message: content_pb2.Content) -> str:
    return "".join("t" if part.WhichOneof("part") == "text" else _LETTER[part.media.modality] for part in message.parts)
