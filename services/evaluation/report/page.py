"""The report as one self-contained page: what each model reached on each part, a radar of the parts, and the items that
went worst.
"""

import datetime
import json
from collections.abc import Mapping, Sequence
from typing import Any

import jinja2

from omnialign import names
from omnialign.v1 import content_pb2
from services.evaluation.benchmarks import BENCHMARKS
from services.evaluation.job import Job, Part, Spec, parts_of
from services.evaluation.report import cards, radars, tables
from services.evaluation.report.cards import Item
from services.evaluation.summaries import AGREEMENT, AMG, AMU, OVERALL, STRENGTH
from services.pipeline.kind import Record
from services.pipeline.pages import messages
from services.pipeline.pages.template import environment, script

ITEMS_SHOWN = 4
"""Items with all their media, for each group of a benchmark: the page stays light."""
COMPOSITES = {AMU: 10.0, AMG: 30.0, OVERALL: 20.0}
"""Scores made of other benchmarks' scores, and the best that they can be."""


def choose(records: Sequence[Record], plan: Spec) -> list[Item]:
    """The items that the page shows, in order: those of the lowest scores (`choice.Choice` tells their records)."""
    parts = [part.id for part in parts_of(plan)]
    return cards.choose(cards.by_item(records), cards.worst, parts=parts, limit=ITEMS_SHOWN)


def render(
    job: Job,
    plan: Spec,
    *,
    numbers: Mapping[str, Any],
    shown: Sequence[Item],
    references: Mapping[str, content_pb2.Media],
    data: Mapping[str, bytes],
) -> str:
    """The page's HTML. Decodes media: call it off the event loop."""
    pictures, models = messages.pictures(references, data), [names.short_name(model) for model in plan.models]
    ended = (job.end_time if job.HasField("end_time") else job.update_time).ToDatetime(datetime.UTC)
    abilities, sizes = radars.abilities(job.scores, plan), [found.items for found in job.manifest.benchmarks]
    templates = make_environment()
    return templates.get_template("report.html.j2").render(
        n=numbers,
        script=script(templates, "items.js"),
        evaluation_id=names.id_of(job.name),
        ended=ended,
        seconds=sum(stage["seconds"] for stage in numbers["stages"].values()),
        models=models,
        modes=_modes(job),
        abilities=[(axis, [by.get(model) for model in models]) for axis, by in abilities.items()],
        composites=tables.table(score for score in job.scores if score.measure in COMPOSITES),
        tops=COMPOSITES,
        radar=radars.radar(abilities, models),
        parts=[_part(part, job, items) for part, items in zip(parts_of(plan), sizes, strict=True)],
        item_count=sum(sizes),
        cards=[cards.card(item, models, pictures) for item in shown],
        failed=sum(status.quarantined for status in job.stages),
        warnings=list(job.preflight.warnings),
        manifest_json=json.dumps(numbers["manifest"], indent=2, ensure_ascii=False),
    )


def _modes(job: Job) -> list[tuple[str, str, str]]:
    """(model, generator or empty, modalities): how media get into the answers."""
    found: dict[tuple[str, str], list[str]] = {}
    for mode in job.manifest.modes:
        found.setdefault((mode.model, mode.generator), []).append(mode.modality)
    return [(model, generator, ", ".join(written)) for (model, generator), written in found.items()]


def _part(part: Part, job: Job, items: int) -> dict[str, Any]:
    """One benchmark for the template."""
    kind = BENCHMARKS[part.spec.name]
    found = [score for score in job.scores if score.benchmark == part.id and score.measure not in COMPOSITES]
    scores = [score for score in found if score.measure != AGREEMENT]
    groups = radars.groups(scores, kind)

    def is_first(score: tables.Score) -> bool:
        return not score.group or kind.main in ("", score.measure)

    return {
        "id": part.id,
        "top": kind.top,
        "dataset": part.spec.dataset,
        "judges": [judge.model for judge in part.spec.judges],
        "items": items,
        "tables": [
            tables.table(score for score in scores if is_first(score) and score.measure != STRENGTH),
            tables.table(score for score in scores if score.measure == STRENGTH),
        ],
        "details": tables.table(score for score in scores if not is_first(score)),
        "agreements": [score for score in found if score.measure == AGREEMENT],
        "measure": kind.main,
        "lines": (lines := list(dict.fromkeys(line for by in groups.values() for line in by))),
        "radar": radars.radar(groups, lines),
    }


def make_environment() -> jinja2.Environment:
    """The templates of the report and of the comparison."""
    return environment(
        "services.evaluation.report",
        short=names.short_name,
        figure=figure,
        signed=signed,
        group=tables.group_name,
        measured=tables.measured,
        benchmark=tables.benchmark_name,
    )


def figure(value: float | None, top: float = 1.0) -> str:
    """A score to three digits; a dash where nothing was judged."""
    return "–" if value is None else f"{value:.3f}" if top <= 1 else f"{value:.2f}"


def signed(difference: float, top: float = 1.0) -> str:
    """A difference, always with its sign."""
    return ("−" if difference < 0 else "+") + figure(abs(difference), top)
