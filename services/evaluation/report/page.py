"""The report as one self-contained page: a table of scores, a radar of their parts, and the items that went worst.

Every text on the page came from a model or a data set and is untrusted: the template escapes all of it.
"""

import datetime
import json
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from omnialign import names
from omnialign.v1 import content_pb2, evaluation_service_pb2
from services.evaluation.benchmarks import BENCHMARKS
from services.evaluation.job import Job, Spec, parts_of
from services.evaluation.report.numbers import badness
from services.evaluation.summaries import AMG, AMU, OVERALL
from services.evaluation.works import ABLATED, BENCHMARK, group_of, item_of
from services.pipeline.kind import Record
from services.pipeline.pages import messages
from services.pipeline.pages.pictures import Picture
from services.pipeline.pages.template import environment

ITEMS_SHOWN = 3
"""Items with all their media, for each group of a benchmark: the page stays light."""
SIDES_SHOWN = 4
COMPOSITES = {AMU: 10.0, AMG: 30.0, OVERALL: 20.0}
"""Scores made of other benchmarks' scores, and the best that they can be."""
MIN_AXES = 3
"""Fewer groups make no radar."""

Score = evaluation_service_pb2.BenchmarkScore
Shown = Mapping[str, Sequence[Sequence[Record]]]
"""For each benchmark, the items that are shown: the records of one item together, worst items first."""


def choose(records: Iterable[Record]) -> dict[str, list[list[Record]]]:
    """The items that the page shows, by benchmark."""
    groups: dict[str, dict[str, list[Record]]] = {}
    for record in records:
        groups.setdefault(record.labels[BENCHMARK], {}).setdefault(item_of(record), []).append(record)
    return {benchmark: _worst(items.values()) for benchmark, items in groups.items()}


def _worst(items: Iterable[list[Record]]) -> list[list[Record]]:
    """The items of lowest score in each group, the lowest first."""
    seen, chosen = Counter[str](), []
    for found in sorted(items, key=lambda found: min(map(badness, found))):
        group = group_of(found[0])
        seen[group] += 1
        if seen[group] <= ITEMS_SHOWN:
            chosen.append(found)
    return chosen


def media_of(shown: Shown) -> dict[str, content_pb2.Media]:
    """The media that the page shows, by digest."""
    records = [record for items in shown.values() for found in items for record in found[:SIDES_SHOWN]]
    return messages.media_of(m for r in records for m in (r.prompt, *(one.content for one in r.responses)))


def render(
    job: Job,
    plan: Spec,
    *,
    numbers: Mapping[str, Any],
    shown: Shown,
    references: Mapping[str, content_pb2.Media],
    data: Mapping[str, bytes],
) -> str:
    """The page's HTML. Decodes media: call it off the event loop."""
    pictures = messages.pictures(references, data)
    ended = (job.end_time if job.HasField("end_time") else job.update_time).ToDatetime(datetime.UTC)
    return (
        environment("services.evaluation.report", short=names.short_name, figure=figure)
        .get_template("report.html.j2")
        .render(
            n=numbers,
            evaluation_id=names.id_of(job.name),
            ended=ended,
            seconds=sum(stage["seconds"] for stage in numbers["stages"].values()),
            parts=[
                {
                    "id": part.id,
                    "top": BENCHMARKS[part.spec.name].top,
                    "dataset": part.spec.dataset,
                    "scores": [s for s in job.scores if s.benchmark == part.id and s.measure not in COMPOSITES],
                    "radars": radars([score for score in job.scores if score.benchmark == part.id], part.spec.name),
                    "cards": [card(found, pictures) for found in shown.get(part.id, [])],
                }
                for part in parts_of(plan)
            ],
            composites=[score for score in job.scores if score.measure in COMPOSITES],
            preflight=job.preflight,
            manifest_json=json.dumps(numbers["manifest"], indent=2, ensure_ascii=False),
        )
    )


def card(found: Sequence[Record], pictures: Mapping[str, Picture]) -> dict[str, Any]:
    """One item for the template: what was asked, and each answer with its scores."""
    first = found[0]
    return {
        "id": item_of(first),
        "group": group_of(first),
        "prompt": messages.pieces(first.prompt, pictures),
        "references": [reference.answer for reference in first.benchmark_item.references],
        "sides": [side for record in found[:SIDES_SHOWN] for side in sides(record, pictures)],
    }


def sides(record: Record, pictures: Mapping[str, Picture]) -> list[dict[str, Any]]:
    """The answers in a record; its assessments stand at the last."""
    comparison = record.comparison
    reasons = [reason for reason in (comparison.forward_reason, comparison.backward_reason) if reason]
    return [
        {
            "title": response.source,
            "without": record.labels.get(ABLATED, ""),
            "pieces": messages.pieces(response.content, pictures),
            "assessments": list(response.assessments),
            "reasons": reasons if response.assessments else [],
        }
        for response in record.responses
    ]


def radars(scores: Sequence[Score], benchmark: str) -> list[dict[str, Any]]:
    """One radar for each measure that has enough groups: an axis for each group, a line for each model and judge."""
    found = []
    for measure in dict.fromkeys(score.measure for score in scores):
        measured = [s for s in scores if s.measure == measure and s.group and s.HasField("value")]
        groups = sorted({score.group for score in measured})
        if len(groups) < MIN_AXES:
            continue
        lines: dict[str, dict[str, float]] = {}
        for score in measured:
            who = " by ".join(names.short_name(name) for name in (score.model, score.judge) if name)
            who += f" without {score.ablation}" if score.ablation else ""
            lines.setdefault(who, {})[score.group] = score.value / BENCHMARKS[benchmark].top
        found.append(
            {
                "measure": measure,
                "axes": [{"name": group, "at": _point(i, len(groups), 1.0)} for i, group in enumerate(groups)],
                "lines": [
                    {"name": who, "points": [_point(i, len(groups), at.get(g, 0.0)) for i, g in enumerate(groups)]}
                    for who, at in lines.items()
                ],
            }
        )
    return found


def figure(value: float | None) -> str:
    """A score to three digits after the point; a dash where nothing was judged."""
    return "–" if value is None else f"{value:.3f}"


def _point(number: int, count: int, radius: float) -> tuple[float, float]:
    """A point of a radar around (0, 0) with the radius 100, upwards first and then clockwise."""
    angle = 2 * math.pi * number / count
    return round(100 * radius * math.sin(angle), 2), round(-100 * radius * math.cos(angle), 2)
