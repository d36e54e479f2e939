"""Radars: an axis for each part, a line for each model. Points are around (0, 0), with 100 for the best score."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from omnialign.v1 import evaluation_service_pb2
from services.evaluation.benchmarks import BENCHMARKS, Benchmark
from services.evaluation.job import Spec, parts_of
from services.evaluation.report.tables import column_of, group_name, measured

MIN_AXES = 3
"""Fewer make no radar."""
RINGS = (0.25, 0.5, 0.75, 1.0)
APART = 2.6
"""How far the intervals of two lines are drawn from each other."""

Score = evaluation_service_pb2.BenchmarkScore
Point = tuple[float, float]


@dataclass(frozen=True)
class Axis:
    """One part of a benchmark: what it is called, and its best score."""

    name: str
    top: float


Lines = Mapping[Axis, Mapping[str, Score]]
"""The score on each axis of each line that has one."""


def abilities(scores: Iterable[Score], plan: Spec) -> Lines:
    """For each ability that the benchmarks measure the score of each model, by the first judge of each benchmark."""
    names_of, found = {part.id: part.spec.name for part in parts_of(plan)}, _lines()
    for score in scores:
        kind = BENCHMARKS.get(names_of.get(score.benchmark, ""))
        if kind is not None and _is_ability(score, kind):
            found.setdefault(Axis(_label(score, kind), kind.top), {}).setdefault(column_of(score), score)
    return found


def groups(scores: Iterable[Score], kind: type[Benchmark]) -> Lines:
    """For each group of a benchmark's items its main score of each model, or each judge; nothing for one whose groups
    are abilities."""
    found = _lines()
    for score in scores:
        if kind.main and not kind.has_parts and score.group and _counts(score, kind):
            found.setdefault(Axis(group_name(score.group), kind.top), {}).setdefault(column_of(score), score)
    return found


def _is_ability(score: Score, kind: type[Benchmark]) -> bool:
    is_of_model = bool(score.model) and not score.baseline
    return is_of_model and _counts(score, kind) and bool(score.group) == kind.has_parts


def _counts(score: Score, kind: type[Benchmark]) -> bool:
    return score.HasField("value") and not score.ablation and kind.main in ("", score.measure)


def _lines() -> dict[Axis, dict[str, Score]]:
    return {}


def _label(score: Score, kind: type[Benchmark]) -> str:
    if kind.name == "instruction_following":
        return f"{group_name(score.group)} as asked"
    return measured(score.measure) if not kind.main else group_name(score.group or score.benchmark)


def radar(found: Lines, lines: Sequence[str]) -> dict[str, Any] | None:
    """The radar for the template, with a line for each of `lines` in its order; None for too few axes."""
    if len(found) < MIN_AXES:
        return None
    count = len(found)
    return {
        "axes": [
            {"name": axis.name, "top": axis.top, "end": _point(i, count, 1.0), "label": _point(i, count, 1.13)}
            for i, axis in enumerate(found)
        ],
        "rings": [{"share": ring, "points": [_point(i, count, ring) for i in range(count)]} for ring in RINGS],
        "lines": [
            {
                "name": line,
                "points": [
                    _point(i, count, _share(axis, by[line].value))
                    for i, (axis, by) in enumerate(found.items())
                    if line in by
                ],
                "is_whole": all(line in by for by in found.values()),
                "intervals": [
                    _whisker(i, count, axis, by[line], shift=APART * (number - (len(lines) - 1) / 2))
                    for i, (axis, by) in enumerate(found.items())
                    if line in by and by[line].HasField("low")
                ],
            }
            for number, line in enumerate(lines)
        ],
    }


def _share(axis: Axis, value: float) -> float:
    return min(1.0, max(0.0, value / axis.top))


def _whisker(number: int, count: int, axis: Axis, score: Score, *, shift: float) -> tuple[Point, Point]:
    """The ends of an interval, beside the axis so that those of two lines are both seen."""
    low, high = (_point(number, count, _share(axis, value)) for value in (score.low, score.high))
    angle = 2 * math.pi * number / count
    across = (shift * math.cos(angle), shift * math.sin(angle))
    return _moved(low, across), _moved(high, across)


def _moved(point: Point, by: Point) -> Point:
    return round(point[0] + by[0], 2), round(point[1] + by[1], 2)


def _point(number: int, count: int, radius: float) -> Point:
    """A point of a radar, upwards first and then clockwise."""
    angle = 2 * math.pi * number / count
    return round(100 * radius * math.sin(angle), 2), round(-100 * radius * math.cos(angle), 2)
