"""Curves of a training job as SVG: what its reports measured, step by step."""

import asyncio
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omnialign.client import AsyncClient
from omnialign.errors import OmnialignError

HISTORY_SECONDS = 5.0
POINTS_MAX, CURVES_MAX = 200, 12
HELD_OUT = "eval/"
"""How measures of examples held out begin; they are drawn over those that were learnt from."""
SILENT = frozenset({"epoch", "step"})
WIDTH, HEIGHT = 300.0, 100.0

Points = list[tuple[int, float]]


@dataclass(frozen=True)
class Curve:
    """One measure over the steps."""

    name: str
    line: str
    """Points of the polyline."""
    held_out: str
    first: int
    last: int
    newest: float
    low: float
    high: float


async def history(client: AsyncClient, name: str) -> Mapping[str, Points]:
    """What each measure was at each step, as far as it can be read in a few seconds; empty where it cannot."""
    points: dict[str, dict[int, float]] = {}
    try:
        async with asyncio.timeout(HISTORY_SECONDS):
            newest = (await client.get_training_job(name)).last_event
            async for event in client.watch_training_job(name, reconnect_seconds=1):
                note(points, event.training_job.progress)
                if event.sequence >= newest:
                    break
    except (TimeoutError, OmnialignError):
        pass
    return {measure: sorted(found.items()) for measure, found in points.items()}


def note(points: dict[str, dict[int, float]], progress: Any) -> None:
    """Adds what one report says."""
    for measure, value in progress.metrics.items():
        if math.isfinite(value) and measure not in SILENT:
            # Each report repeats what the last evaluation measured, which belongs to the step of that evaluation.
            is_held_out = measure.startswith(HELD_OUT)
            step = progress.evaluated_step if is_held_out else progress.completed_steps
            points.setdefault(measure, {})[step] = value


def curves(points: Mapping[str, Points]) -> list[Curve]:
    """A curve for each measure with two points or more, the loss first."""
    names = [name for name, found in points.items() if not name.startswith(HELD_OUT) and len(found) > 1]
    names.sort(key=lambda name: (name != "loss", name))
    return [_curve(name, points[name], points.get(HELD_OUT + name, [])) for name in names[:CURVES_MAX]]


def _curve(name: str, learnt: Points, held_out: Points) -> Curve:
    some = thinned(learnt)
    values = [value for _, value in (*some, *held_out)]
    first, last, low, high = some[0][0], some[-1][0], min(values), max(values)

    def placed(points: Points) -> str:
        across, up = (last - first) or 1, (high - low) or 1
        return " ".join(
            f"{WIDTH * (step - first) / across:.1f},{HEIGHT * (1 - (value - low) / up):.1f}" for step, value in points
        )

    return Curve(name, placed(some), placed(held_out), first, last, learnt[-1][1], low, high)


def thinned(points: Points) -> Points:
    """At most POINTS_MAX evenly spaced points, the last among them."""
    stride = math.ceil(len(points) / POINTS_MAX) or 1
    return points[::-1][::stride][::-1]
