"""The report as one self-contained page. The template draws; this module hands it plain values.

Every text on the page came from a model or a data set and is untrusted: the template escapes all of it, and nothing
here or there is marked as safe.
"""

import datetime
import json
from collections.abc import Sequence
from typing import Any

from omnialign import names
from omnialign.v1 import alignment_service_pb2
from services.alignment.report import gallery, lineage
from services.alignment.report.gather import HELD_OUT, Material, Points
from services.alignment.report.statistics import PAIR_FATES
from services.pipeline.pages import messages
from services.pipeline.pages.template import environment

Series = Sequence[tuple[float, float]]
"""Steps and values."""
REWARD_TERMS = ("reward_model", "judge", "critic", "checker", "well_formed", "length_over")
CURVES_SHOWN = (
    "loss",
    "rewards/accuracies",
    "rewards/margins",
    "accuracy",
    "mean_token_accuracy",
    "rewards/mean",
    *(f"rewards/{term}" for term in REWARD_TERMS),
    "kl",
)


def render(numbers: dict[str, Any], *, job: alignment_service_pb2.AlignmentJob, material: Material) -> str:
    """The page's HTML. Decodes media and draws pictures: call it off the event loop."""
    shown = messages.pictures(material.references, material.data)
    answers = {
        name: [gallery.answer_card(r, shown) for r in records] for name, records in material.answers.items() if records
    }
    return (
        environment("services.alignment.report", short=lineage.label)
        .get_template("report.html.j2")
        .render(
            n=numbers,
            job_id=names.id_of(job.name),
            ended=_ended(job),
            answers=answers,
            loop=[gallery.feedback_card(record, shown) for record in material.loop],
            fates=PAIR_FATES,
            curves=[curve for name, points in material.curves.items() for curve in draw_curves(name, points)],
            graph=lineage.draw(material.edges),
            spec_json=json.dumps(numbers["spec"], indent=2, ensure_ascii=False),
        )
    )


def _ended(job: alignment_service_pb2.AlignmentJob) -> datetime.datetime:
    stamp = job.end_time if job.HasField("end_time") else job.update_time
    return stamp.ToDatetime(datetime.UTC)


def draw_curves(name: str, points: Points) -> list[dict[str, Any]]:
    """The interesting curves of one training job, scaled to a box of 100 × 100 with y downwards.

    A measure that was also taken of examples held out has a second curve, in the same box.
    """
    stage, _, training_job = name.partition("/")

    def series(measure: str) -> Series:
        return [(p["step"], p[measure]) for p in points if measure in p]

    return [
        {"stage": stage, "training_job": training_job, **_curve(measure, series(measure), series(HELD_OUT + measure))}
        for measure in CURVES_SHOWN
        if len(series(measure)) >= 2
    ]


def _curve(measure: str, learnt: Series, held_out: Series) -> dict[str, Any]:
    steps, values = zip(*learnt, *held_out, strict=True)
    low, high, first, last = min(values), max(values), min(steps), max(steps)
    spread, span = (high - low) or 1.0, (last - first) or 1.0

    def path(series: Series) -> str:
        return " ".join(f"{100 * (s - first) / span:.2f},{96 - 92 * (v - low) / spread:.2f}" for s, v in series)

    shape = {"path": path(learnt), "held_out": path(held_out), "low": low, "high": high, "first": first, "last": last}
    return {"measure": measure, **shape, "end": learnt[-1][1], "held_out_end": held_out[-1][1] if held_out else None}
