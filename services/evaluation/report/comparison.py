"""The report of a comparison: the differences with their intervals, and the items on which the two differ most."""

from collections.abc import Mapping, Sequence
from typing import Any

from omnialign import names
from omnialign.client import AsyncClient
from omnialign.v1 import content_pb2, evaluation_service_pb2
from services.evaluation.benchmarks import BENCHMARKS
from services.evaluation.comparing import Compared, plan_of
from services.evaluation.job import parts_of
from services.evaluation.report import cards
from services.evaluation.report.cards import Item
from services.evaluation.report.differences import ITEMS_SHOWN, ITEMS_TOLD, Differences
from services.evaluation.report.page import COMPOSITES, make_environment
from services.evaluation.samples import key_of
from services.evaluation.works import BENCHMARK, MODEL, group_of, item_of
from services.pipeline.kind import Record
from services.pipeline.pages import messages
from services.pipeline.pages.template import script

BASELINE, CANDIDATE = 1, 2
"""Numbers of the two on the page."""
SURE = 0.05
"""A difference of a smaller p-value is drawn as one."""


async def read_different(compared: Compared, data: AsyncClient) -> list[Item]:
    """The items on which the two differ most, read with a client of the data service: those that a report tells of."""
    differences, sides = Differences(), (compared.baseline, compared.side)
    for place, side in enumerate(sides):
        async for record in side.records(data):
            differences.add(record, place=place)
    chosen = differences.close()
    found = [
        _numbered(record, number)
        for number, side in zip((BASELINE, CANDIDATE), sides, strict=True)
        async for record in side.records(data)
        if (record.labels[BENCHMARK], key_of(item_of(record))) in chosen
    ]
    return [item for item in cards.by_item(found) if _closeness(item) < 0]


def numbers_of(compared: Compared, items: Sequence[Item]) -> dict[str, Any]:
    """The content of `compare.json`; `items` are those that differ. What there are too few items to tell is null."""
    return {
        "evaluation": compared.side.job.name,
        "model": compared.side.model,
        "baseline_evaluation": compared.baseline.job.name,
        "baseline_model": compared.baseline.model,
        "unlike": list(compared.unlike),
        "comparisons": [_row(one) for one in compared.response().comparisons],
        "items": [
            {
                "item": item_of(item[0]),
                "benchmark": item[0].labels[BENCHMARK],
                "group": group_of(item[0]),
                "baseline": reached[BASELINE] * cards.kind_of(item[0]).top,
                "model": reached[CANDIDATE] * cards.kind_of(item[0]).top,
            }
            for item in sorted(items, key=_closeness)[:ITEMS_TOLD]
            for reached in (cards.shares(item),)
        ],
    }


def _row(found: evaluation_service_pb2.ScoreComparison) -> dict[str, Any]:
    return {
        "benchmark": found.benchmark,
        "judge": found.judge or None,
        "measure": found.measure,
        "group": found.group or None,
        "without": found.ablation or None,
        "items": found.items,
        "unpaired": found.unpaired,
        "value": found.value,
        "baseline_value": found.baseline_value,
        "difference": found.value - found.baseline_value,
        "interval": [found.low, found.high] if found.HasField("low") else None,
        "p_value": found.p_value if found.HasField("p_value") else None,
    }


def choose(compared: Compared, items: Sequence[Item]) -> list[Item]:
    """Those of the items that differ that the page shows."""
    parts = [part.id for part in parts_of(plan_of(compared.side.job))]
    return cards.choose(items, _closeness, parts=parts, limit=ITEMS_SHOWN)


def _numbered(record: Record, number: int) -> Record:
    """A record of one of the two under its number here."""
    record.labels[MODEL] = str(number)
    return record


def _difference(item: Item) -> float:
    """By how much the model is better than the baseline, as a share of the best score."""
    reached = cards.shares(item)
    return reached[CANDIDATE] - reached[BASELINE] if len(reached) > 1 else 0.0


def _closeness(item: Item) -> float:
    """0 for the same scores, -1 for the most different."""
    return -abs(_difference(item))


def render(
    compared: Compared,
    *,
    numbers: Mapping[str, Any],
    shown: Sequence[Item],
    references: Mapping[str, content_pb2.Media],
    data: Mapping[str, bytes],
) -> str:
    """The page's HTML. Decodes media: call it off the event loop."""
    pictures, templates, models = messages.pictures(references, data), make_environment(), _titles(compared)
    kinds = {part.id: BENCHMARKS[part.spec.name] for part in parts_of(plan_of(compared.side.job))}
    tops = [COMPOSITES.get(row["measure"]) or kinds[row["benchmark"]].top for row in numbers["comparisons"]]
    rows = [row | _drawn(row, top) for row, top in zip(numbers["comparisons"], tops, strict=True)]
    reach = max((abs(row[end]) for row in rows for end in ("left", "right")), default=0.0) or 1.0
    is_main = [not row["group"] or kinds[row["benchmark"]].main in ("", row["measure"]) for row in rows]
    return templates.get_template("comparison.html.j2").render(
        n=numbers,
        script=script(templates, "items.js"),
        models=models,
        reach=reach,
        tops=COMPOSITES,
        rows=sorted((row for row, main in zip(rows, is_main, strict=True) if main), key=_is_part),
        others=[row for row, main in zip(rows, is_main, strict=True) if not main],
        cards=[
            cards.card(item, models, pictures) | {"difference": _difference(item) * cards.kind_of(item[0]).top}
            for item in shown
        ],
    )


def _is_part(row: Mapping[str, Any]) -> bool:
    return row["measure"] not in COMPOSITES


def _titles(compared: Compared) -> list[str]:
    """What the two are called; with their evaluations, if there are two."""
    sides = (compared.baseline, compared.side)
    titles = [names.short_name(side.model) for side in sides]
    if compared.side.job.name == compared.baseline.job.name:
        return titles
    return [f"{title} in {names.id_of(side.job.name)}" for title, side in zip(titles, sides, strict=True)]


def _drawn(row: Mapping[str, Any], top: float) -> dict[str, Any]:
    """Where a difference and its interval are, as shares of the best score, and what they tell."""
    low, high = row["interval"] or (row["difference"], row["difference"])
    is_sure = row["p_value"] is not None and row["p_value"] < SURE
    told = ("better" if row["difference"] > 0 else "worse") if is_sure else "unclear"
    return {"top": top, "left": low / top, "right": high / top, "at": row["difference"] / top, "told": told}
