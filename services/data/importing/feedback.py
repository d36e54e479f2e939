"""The annotations of a row: feedback on each response, the preference between them, labels."""

import json
from collections.abc import Mapping
from typing import Any

from omnialign.feedback_text import read_feedback_text, read_verdict_text
from omnialign.v1 import record_pb2
from services.data.importing import columns
from services.data.importing.columns import Row
from services.data.importing.refusal import described, refusal
from services.data.importing.scales import Scales
from services.data.importing.taken_columns import ResponseColumns, TakenColumns


def add_feedback(response: record_pb2.Response, row: Row, taken: ResponseColumns, scales: Scales) -> None:
    """Adds the scores, critique and advice on one response, if any. Raises SCORE_INVALID, TEXT_EXPECTED."""
    rationales = {dimension: text(row, name) for name, dimension in taken.rationales.items()}
    for name, dimension in taken.rates.items():
        if row[name] is not None:
            score = read_score(row[name], scales, name)
            response.feedback.scores.add(dimension=dimension, score=score, rationale=rationales.get(dimension, ""))
    if not (critique := columns.first(row, taken.critique)):
        return
    sections = read_feedback_text(text(row, critique))
    if said := "\n".join(filter(None, (sections.critique, sections.reason))):
        response.feedback.critique = said
    if sections.refinement:
        response.feedback.refinement = sections.refinement


def read_score(found: Any, scales: Scales, column: str, dimension: str = "") -> int:
    """A value as a score from 0 to 3. Raises SCORE_INVALID."""
    score = scales.score(found)
    if score is None:
        wanted = "{:g} to {:g}".format(*scales.score_range) if scales.score_range else "0, 1, 2 or 3"
        what = f"the score of {dimension[:64]}" if dimension and dimension != column else "the score"
        raise refusal("SCORE_INVALID", f"{what} is {found!r}"[:300] + f", and {wanted} is taken", column=column)
    return score


def add_preference(record: record_pb2.Record, row: Row, taken: TakenColumns, scales: Scales) -> None:
    """Adds the preference between the two responses. Raises LABEL_INVALID, TEXT_EXPECTED."""
    name = columns.first(row, taken.overall)
    preferred = scales.winner(row[name]) if name else None
    if preferred is None:
        wanted = "{} or {}".format(*scales.winner_labels or columns.SIDES)
        name = name or taken.overall[0]
        message = f"the overall label is {row[name]!r}, and {wanted} is taken"
        raise refusal("LABEL_INVALID", message[:500], column=name)
    reason = text(row, columns.first(row, taken.overall_text))
    record.preference.preferred = preferred
    if reason:
        record.preference.reason = read_verdict_text(reason)
    for column, dimension in taken.winners.items():
        if (side := scales.winner(row[column])) is not None:  # dimensions without a winner are left out
            record.preference.dimensions[dimension] = side


def labels(row: Row) -> dict[str, str]:
    """The labels of a row. Raises LABELS_INVALID, TEXT_EXPECTED."""
    extra = {name: said for name in columns.EXTRA_LABELS if name in row and (said := text(row, name))}
    found = row.get("labels")
    if isinstance(found, str) and found.strip():
        try:
            found = json.loads(found)
        except (ValueError, RecursionError) as error:
            raise refusal("LABELS_INVALID", f"the labels are not JSON: {error}", column="labels") from error
    if found in (None, ""):
        return extra
    if not isinstance(found, Mapping):
        raise refusal("LABELS_INVALID", "the labels are not an object that maps names to values", column="labels")
    named = {str(name): one for name, one in found.items() if one is not None}
    return extra | {name: one if isinstance(one, str) else json.dumps(one) for name, one in named.items()}


def text(row: Row, name: str) -> str:
    """The text in a column; "" if there is none. Raises TEXT_EXPECTED for a value that is not text."""
    found = row.get(name)
    if found is None:
        return ""
    if not isinstance(found, str):
        message = f"the column holds {described(found)}, and text is taken"
        raise refusal("TEXT_EXPECTED", message, column=name)
    return found.strip()
