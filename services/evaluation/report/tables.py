"""Scores as tables: a column for each model, a row for each thing that was measured."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from omnialign import names
from omnialign.v1 import evaluation_service_pb2
from services.evaluation.summaries import AMU
from services.pipeline.pages.template import SUBTASK_WORDS, modalities, words

Score = evaluation_service_pb2.BenchmarkScore


@dataclass(frozen=True)
class Table:
    """The columns, and of each row what it is about and a score, or None, for each column."""

    columns: Sequence[str]
    rows: Sequence[dict[str, Any]]


def table(scores: Iterable[Score]) -> Table:
    """The scores of a benchmark, in their order. Without models the judges are the columns."""
    found = list(scores)
    columns = list(dict.fromkeys(map(column_of, found)))
    rows: dict[Any, dict[str, Any]] = {}
    for score in found:
        judge = names.short_name(score.judge) if score.model and score.judge else ""
        key = (score.measure, judge, score.ablation, score.group)
        row = rows.setdefault(
            key, {"measure": score.measure, "group": score.group, "judge": judge, "without": score.ablation, "by": {}}
        )
        row["by"][column_of(score)] = score
    return Table(columns, [row | {"cells": [row["by"].get(column) for column in columns]} for row in rows.values()])


def column_of(score: Score) -> str:
    """Whom a score is of."""
    against = f" against {names.short_name(score.baseline)}" if score.baseline else ""
    return names.short_name(score.model or score.judge) + against or "all judges"


def measured(measure: str) -> str:
    """What people call a measure: `synergy of text + image` for `synergy-ti`."""
    name, dash, letters = measure.partition("-")
    return f"{name} of {modalities(letters)}" if dash else name.replace("_", " ")


def benchmark_name(part_id: str) -> str:
    """What people call a benchmark."""
    return part_id.upper() if part_id.startswith(AMU) else part_id.replace("_", " ").capitalize()


def group_name(group: str | None) -> str:
    """What people call a group of items."""
    return SUBTASK_WORDS.get(group or "") or words(group or "all items").replace("_", " ")
