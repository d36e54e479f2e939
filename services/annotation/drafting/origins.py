"""What became of each part of a model's draft (`omnialign.annotation_parts`) in the annotation that began from it.

A person says of a part that they accept or reject it; that they edited it, or wrote what the model had not, is seen by
comparing. A part that is neither accepted nor changed is not submitted: that somebody overlooked it is no consent.
"""

from collections.abc import Iterator, Mapping

from omnialign.annotation_parts import TEXTS, parts_of
from omnialign.errors import InvalidArgument
from omnialign.v1.annotation_pb2 import (
    ORIGIN_ACCEPTED,
    ORIGIN_EDITED,
    ORIGIN_OWN,
    ORIGIN_REJECTED,
    Annotation,
    Origin,
)

Parts = Mapping[str, object]


def settle(annotation: Annotation, draft: Annotation) -> None:
    """Sets the origin of each part of a complete annotation that began from a model's draft.

    Raises InvalidArgument (`ANNOTATION_INCOMPLETE`) for parts of the draft about which nothing was decided.
    """
    drafted, problems = parts_of(draft), list[tuple[str, str]]()
    origins = dict[str, Origin.ValueType]()
    for part, value in parts_of(annotation).items():
        given = annotation.origins.get(part, 0)
        origins[part] = _origin(part, value, drafted, given)
        problems += _problems(part, value, drafted, given)
    if problems:
        text = "; ".join(f"{field}: {problem}" for field, problem in problems)
        raise InvalidArgument(text, reason="ANNOTATION_INCOMPLETE", violations=problems)
    annotation.ClearField("origins")
    annotation.origins.update(origins)


def counted(annotation: Annotation) -> str:
    """How many parts have which origin, as a label says it: `accepted=17,edited=2`."""
    words = {ORIGIN_ACCEPTED: "accepted", ORIGIN_EDITED: "edited", ORIGIN_REJECTED: "rejected", ORIGIN_OWN: "own"}
    values = list(annotation.origins.values())
    return ",".join(f"{word}={values.count(origin)}" for origin, word in words.items() if origin in values)


def _origin(part: str, value: object, drafted: Parts, given: int) -> "Origin.ValueType":
    if part not in drafted:
        return ORIGIN_OWN
    if given == ORIGIN_REJECTED:
        return ORIGIN_REJECTED
    return ORIGIN_ACCEPTED if value == drafted[part] else ORIGIN_EDITED


def _problems(part: str, value: object, drafted: Parts, given: int) -> Iterator[tuple[str, str]]:
    if part not in drafted or value != drafted[part] or given == ORIGIN_ACCEPTED:
        return
    field = f'annotation.origins["{part}"]'
    if given != ORIGIN_REJECTED:
        yield field, "is as the model has it: accept it, change it or reject it"
    elif part.startswith(TEXTS):
        yield field, "is rejected, and still says what the model said"
