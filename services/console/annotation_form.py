"""The form of an annotation: its fields, as a browser sends them, and the message that they say.

winner.{dimension}  score.{side}.{dimension}  rationale.{side}.{dimension}  critique.{side}  refinement.{side}
preferred  reason  origin.{dimension.NAME, critique.SIDE, refinement.SIDE or overall}
mark.{side}.{prompt or response}.{part}.{number}.{start, end, left, top, width, height, note}
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from math import isfinite

from omnialign.annotation_parts import parts_of
from omnialign.content import NAMES
from omnialign.errors import InvalidArgument
from omnialign.v1 import content_pb2
from omnialign.v1.annotation_pb2 import ORIGIN_ACCEPTED, ORIGIN_REJECTED, Annotation, Origin
from omnialign.v1.record_pb2 import Feedback, Mark, Record, Region, TimeSpan

SIDES = (1, 2)
MAX_FIELDS = 8000
"""Of a form: two responses with 256 marks each."""
MAX_BODY_BYTES = 4 * 1024 * 1024
"""Of a form: the longest annotation, each byte of which takes three in a form."""
WORDS: dict["Origin.ValueType", str] = {ORIGIN_ACCEPTED: "accepted", ORIGIN_REJECTED: "rejected"}
OVERALL, REST = "overall", "rest"
TIMES, EDGES = ("start", "end"), ("left", "top", "width", "height")


@dataclass(frozen=True)
class Reading:
    """What a form says, and what in it cannot be kept yet, such as half a mark."""

    annotation: Annotation
    unfinished: list[tuple[str, str]] = field(default_factory=list)


@dataclass(frozen=True)
class Place:
    """A medium in which feedback on a response can mark places."""

    side: int
    where: str
    part: int
    modality: int
    marks: int
    """How many it has."""

    @property
    def key(self) -> str:
        """How its fields begin."""
        return f"mark.{self.side}.{self.where}.{self.part}"

    @property
    def player(self) -> str:
        """Id of the player on the page."""
        return player(self.where, self.side, self.part)

    @property
    def has_time(self) -> bool:
        """Whether its marks are stretches of time, and not regions."""
        return self.modality != content_pb2.MODALITY_IMAGE

    @property
    def title(self) -> str:
        """What it is, for people."""
        message = "the prompt" if self.where == "prompt" else f"response {self.side}"
        return f"{NAMES.get(self.modality, 'medium')} in {message}, part {self.part + 1}"


def player(where: str, side: int, part: int) -> str:
    """Id of the player of a medium: media of the prompt have one, whatever response the feedback is on."""
    return f"player-{where}-{part}" if where == "prompt" else f"player-{where}-{side}-{part}"


def places(record: Record, side: int, fields: Mapping[str, str]) -> list[Place]:
    """The media of the prompt and of a response."""
    messages = (("prompt", record.prompt), ("response", record.responses[side - 1].content))
    found = list[Place]()
    for where, message in messages:
        for number, part in enumerate(message.parts):
            if part.WhichOneof("part") == "media":
                begun = f"mark.{side}.{where}.{number}."
                marks = {name.split(".")[4] for name, value in fields.items() if name.startswith(begun) and value}
                count = 1 + max((int(one) for one in marks if one.isdecimal() and len(one) < 4), default=-1)
                found.append(Place(side, where, number, part.media.modality, count))
    return found


def read_form(fields: Mapping[str, str]) -> Reading:
    """The annotation that a form says. Raises InvalidArgument FORM_INVALID for fields that no form of ours has."""
    annotation = Annotation(preferred=_choice(fields, "preferred"), reason=_text(fields, "reason"))
    reading = Reading(annotation)
    for name, value in fields.items():
        kind, _, dimension = name.partition(".")
        if kind == "winner" and value:
            annotation.winners[dimension] = _choice(fields, name)
    for side in SIDES:
        feedback = annotation.feedback.add()
        feedback.critique, feedback.refinement = _text(fields, f"critique.{side}"), _text(fields, f"refinement.{side}")
        _read_scores(fields, side, feedback)
        _read_marks(fields, side, feedback, reading)
    _read_origins(fields, annotation)
    return reading


def fields_of(annotation: Annotation) -> dict[str, str]:
    """The fields that say an annotation."""
    found = {f"winner.{name}": str(side) for name, side in annotation.winners.items()}
    found["preferred"] = str(annotation.preferred or "")
    found["reason"] = annotation.reason
    for side, feedback in enumerate(annotation.feedback, start=1):
        found[f"critique.{side}"], found[f"refinement.{side}"] = feedback.critique, feedback.refinement
        for score in feedback.scores:
            if not score.unscored:
                found[f"score.{side}.{score.dimension}"] = str(score.score)
            found[f"rationale.{side}.{score.dimension}"] = score.rationale
        counts = dict[str, int]()
        for mark in feedback.marks:
            key = f"mark.{side}.{'prompt' if mark.in_prompt else 'response'}.{mark.part}"
            number = counts[key] = counts.get(key, -1) + 1
            found |= {f"{key}.{number}.{name}": value for name, value in _mark_fields(mark).items()}
    for part, origin in annotation.origins.items():
        if origin in WORDS and found.get(name := f"origin.{group_of(part)}") != WORDS[ORIGIN_REJECTED]:
            found[name] = WORDS[origin]
    return found


def group_of(part: str) -> str:
    """What a person accepts or rejects as one: all of a dimension, a text, or the overall answer."""
    kind, _, rest = part.partition(".")
    dimension = {"winner": rest, "score": rest.partition(".")[2]}.get(kind)
    return f"dimension.{dimension}" if dimension else part if rest else OVERALL


def _parts_of_group(group: str) -> Iterator[str]:
    kind, _, name = group.partition(".")
    if kind == "dimension":
        yield from (f"winner.{name}", *(f"score.{side}.{name}" for side in SIDES))
    else:
        yield from ("preferred", "reason") if group == OVERALL else (group,)


def _read_origins(fields: Mapping[str, str], annotation: Annotation) -> None:
    """What is said of the parts of a model's draft."""
    for name, value in fields.items():
        if name.startswith("origin.") and value:
            for part in _parts_of_group(name.removeprefix("origin.")):
                annotation.origins[part] = _origin(name, value)
    if fields.get("accept") == REST:
        for part in parts_of(annotation):
            annotation.origins[part] = annotation.origins.get(part) or ORIGIN_ACCEPTED


def _origin(name: str, value: str) -> "Origin.ValueType":
    for origin, word in WORDS.items():
        if word == value:
            return origin
    raise _invalid(name, "is no field of this form")


def _read_scores(fields: Mapping[str, str], side: int, feedback: Feedback) -> None:
    begun = f"rationale.{side}."
    scored = (name.partition(f"score.{side}.")[2] for name in fields if name.startswith(f"score.{side}."))
    written = (name.removeprefix(begun) for name in fields if name.startswith(begun))
    for dimension in dict.fromkeys((*scored, *written)):
        rationale = _text(fields, begun + dimension)
        if fields.get(f"score.{side}.{dimension}"):
            score = _choice(fields, f"score.{side}.{dimension}")
            feedback.scores.add(dimension=dimension, score=score, rationale=rationale)
        elif rationale:
            feedback.scores.add(dimension=dimension, unscored=True, rationale=rationale)


def _read_marks(fields: Mapping[str, str], side: int, feedback: Feedback, reading: Reading) -> None:
    rows = dict.fromkeys(name.rpartition(".")[0] for name in fields if name.startswith(f"mark.{side}."))
    for row in rows:
        given = {name: _text(fields, f"{row}.{name}").strip() for name in (*TIMES, *EDGES, "note")}
        if not any(given.values()):
            continue
        parts = row.split(".")
        if len(parts) != 5 or parts[2] not in ("prompt", "response"):
            raise _invalid(row, "is no field of this form")
        mark = Mark(in_prompt=parts[2] == "prompt", part=_small(row, parts[3]), note=given["note"])
        if problem := _read_place(row, given, mark):
            reading.unfinished.append((row, problem))
        else:
            feedback.marks.append(mark)


def _read_place(row: str, given: Mapping[str, str], mark: Mark) -> str:
    """Fills in where a mark is; what is missing, if something is."""
    if given["start"]:
        start = _number(row, given["start"])
        end = _number(row, given["end"]) if given["end"] else start
        mark.span.CopyFrom(TimeSpan(start_seconds=start, end_seconds=end))
        return ""
    edges = {name: _number(row, given[name]) / 100 for name in EDGES if given[name]}
    if len(edges) < len(EDGES) or not all((edges["width"], edges["height"])):
        return "needs a time, or all four numbers of a region"
    mark.region.CopyFrom(Region(**edges))
    return ""


def _mark_fields(mark: Mark) -> dict[str, str]:
    found = {"note": mark.note}
    if mark.HasField("span"):
        return found | {"start": _shown(mark.span.start_seconds), "end": _shown(mark.span.end_seconds)}
    return found | {name: _shown(100 * getattr(mark.region, name)) for name in EDGES}


def _text(fields: Mapping[str, str], name: str) -> str:
    # Browsers send line breaks of a text as two characters.
    return fields.get(name, "").replace("\r\n", "\n")


def _choice(fields: Mapping[str, str], name: str) -> int:
    return _small(name, fields.get(name, "") or "0")


def _small(name: str, text: str) -> int:
    if not (text.isascii() and text.isdigit() and len(text) < 4):
        raise _invalid(name, "must be a small number")
    return int(text)


def _number(name: str, text: str) -> float:
    try:
        number = float(text)
    except ValueError:
        raise _invalid(name, "must be numbers") from None
    if not isfinite(number):
        raise _invalid(name, "must be numbers")
    return number


def _shown(number: float) -> str:
    return str(round(number, 3)).removesuffix(".0")


def _invalid(name: str, problem: str) -> InvalidArgument:
    return InvalidArgument(f"{name[:200]} {problem}", reason="FORM_INVALID", violations=[(name[:200], problem)])
