"""The parts of an annotation's form, by which it is said what became of a model's draft.

`winner.{dimension}`, `score.{side}.{dimension}` (with its rationale), `critique.{side}`, `refinement.{side}`,
`preferred`, `reason`.
"""

from collections.abc import Iterable, Mapping

from omnialign.v1.annotation_pb2 import Annotation

SIDES = (1, 2)
TEXTS = ("critique.", "refinement.", "reason")
"""How the names of parts begin that are texts, and not choices."""


def parts_of(annotation: Annotation) -> Mapping[str, object]:
    """What an annotation says, by part; what it leaves open is missing."""
    found: dict[str, object] = {f"winner.{name}": side for name, side in annotation.winners.items()}
    for side, feedback in enumerate(annotation.feedback, start=1):
        found |= {f"score.{side}.{one.dimension}": (one.score, one.rationale) for one in feedback.scores}
        texts = {f"critique.{side}": feedback.critique, f"refinement.{side}": feedback.refinement}
        found |= {part: text for part, text in texts.items() if text}
    if annotation.preferred:
        found["preferred"] = annotation.preferred
    if annotation.reason:
        found["reason"] = annotation.reason
    return found


def all_parts(dimensions: Iterable[str]) -> set[str]:
    """Every part of the form of a rubric."""
    names = list(dimensions)
    sided = [f"{text}.{side}" for text in ("critique", "refinement") for side in SIDES]
    scores = [f"score.{side}.{name}" for side in SIDES for name in names]
    return {*(f"winner.{name}" for name in names), *scores, *sided, "preferred", "reason"}
