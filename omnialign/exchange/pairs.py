"""The pairs of a campaign as tasks of another tool: their parts by name, and a digest that tells what changed."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from omnialign.content import NAMES, content, written_history
from omnialign.v1.annotation_pb2 import Annotation, Rubric
from omnialign.v1.annotation_service_pb2 import Answer
from omnialign.v1.content_pb2 import Content, Media, Part
from omnialign.v1.record_pb2 import Mark, Record, Response

EARLIER, PROMPT = "earlier", "prompt"
TEXT = "text"
BEFORE = -1
"""The number of what came before the prompt, which is shown together."""
SECONDS_TOLERANCE = 0.0051
"""Label Studio counts frames in videos: half of a hundredth of a second, and what floating point adds."""
FRACTION_TOLERANCE = 1e-8


@dataclass(frozen=True)
class Field:
    """One part of a pair."""

    name: str
    """Such as `prompt_0`, `response_2_1` or `earlier_0`."""
    message: int
    """0 for the prompt, `BEFORE` for what came before it, else the response."""
    part: int
    kind: str
    """`text`, `image`, `audio` or `video`."""
    text: str = ""
    media: Media | None = None


@dataclass(frozen=True)
class Pair:
    """A pair of a campaign, with what was submitted about it."""

    campaign: str
    """Full name."""
    item: str
    """Full name."""
    record: Record
    rubric: Rubric
    answers: Sequence[Answer] = ()

    @property
    def fields(self) -> list[Field]:
        """Everything that annotators see, in order."""
        return list(_fields(self.record))

    @property
    def shape(self) -> tuple[str, ...]:
        """What pairs must share to be tasks of one project: the subtask, and the parts with their kinds."""
        return (self.record.subtask, *(f"{field.name} {field.kind}" for field in self.fields))

    @property
    def digest(self) -> str:
        """SHA-256 of what annotators see, in hexadecimal."""
        seen = [[field.name, field.kind, field.media.sha256 if field.media else field.text] for field in self.fields]
        whole = json.dumps([self.record.id, self.record.subtask, seen], ensure_ascii=True, separators=(",", ":"))
        return hashlib.sha256(whole.encode()).hexdigest()

    def facts(self) -> dict[str, str]:
        """What a task carries so that its results find back."""
        ids = {"campaign": self.campaign, "record": self.record.id, "subtask": self.record.subtask}
        return ids | {"digest": self.digest}


def shown(record: Record) -> Record:
    """A record as annotators see it: without who wrote what, and what anybody said of it."""
    made = Record(id=record.id, subtask=record.subtask, history=record.history, prompt=record.prompt)
    made.responses.extend(Response(content=response.content) for response in record.responses[:2])
    return made


def mark_fields(pair: Pair, side: int) -> list[Field]:
    """The media in which feedback on a response may have marks: those of the prompt, and its own."""
    return [field for field in pair.fields if field.kind != TEXT and field.message in (0, side)]


def field_of(mark: Mark, side: int, pair: Pair) -> Field | None:
    """The part that a mark points into."""
    message = 0 if mark.in_prompt else side
    found = (field for field in pair.fields if (field.message, field.part) == (message, mark.part))
    return next(found, None)


def same(one: Annotation, other: Annotation) -> bool:
    """Whether two annotations say the same, but for the order of scores and marks, and what a tool rounds."""
    if (one.winners, one.preferred, one.reason) != (other.winners, other.preferred, other.reason):
        return False
    if len(one.feedback) != len(other.feedback):
        return False
    for first, second in zip(one.feedback, other.feedback, strict=True):
        if (first.critique, first.refinement) != (second.critique, second.refinement):
            return False
        if _scores(first.scores) != _scores(second.scores) or not _same_marks(first.marks, second.marks):
            return False
    return True


def _fields(record: Record) -> Iterator[Field]:
    messages: list[tuple[str, Content]] = [(EARLIER, content(*written_history(record))), (PROMPT, record.prompt)]
    messages += [(f"response_{side}", one.content) for side, one in enumerate(record.responses[:2], start=1)]
    for message, (name, shown) in enumerate(messages, start=BEFORE):
        for number, part in enumerate(shown.parts):
            yield _field(f"{name}_{number}", message, number, part)


def _field(name: str, message: int, number: int, part: Part) -> Field:
    if part.WhichOneof("part") == TEXT:
        return Field(name, message, number, TEXT, text=part.text)
    return Field(name, message, number, NAMES.get(part.media.modality, TEXT), media=part.media)


def _scores(scores: Sequence) -> dict[str, tuple[int, str]]:  # type: ignore[type-arg]  # protobuf's own container
    return {score.dimension: (score.score, score.rationale) for score in scores}


def _same_marks(ones: Sequence[Mark], others: Sequence[Mark]) -> bool:
    left = list(others)
    for mark in ones:
        match = next((other for other in left if _same_mark(mark, other)), None)
        if match is None:
            return False
        left.remove(match)
    return not left


def _same_mark(one: Mark, other: Mark) -> bool:
    def place(mark: Mark) -> tuple[bool, int, str, str, str | None]:
        return mark.in_prompt, mark.part, mark.dimension, mark.note, mark.WhichOneof("place")

    if place(one) != place(other):
        return False
    if one.HasField("span"):
        ends = (one.span.start_seconds, other.span.start_seconds), (one.span.end_seconds, other.span.end_seconds)
        return all(abs(first - second) <= SECONDS_TOLERANCE for first, second in ends)
    names = ("left", "top", "width", "height")
    return all(abs(getattr(one.region, n) - getattr(other.region, n)) <= FRACTION_TOLERANCE for n in names)
