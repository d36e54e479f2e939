"""How an evaluation is shown: its pre-flight, its progress, its scores, and a comparison."""

from __future__ import annotations

from collections.abc import AsyncIterable
from typing import TYPE_CHECKING

from omnialign import names
from omnialign.cli import job_view
from omnialign.cli.follow import follow
from omnialign.cli.output import Output
from omnialign.v1 import evaluation_service_pb2

if TYPE_CHECKING:
    from rich.console import RenderableType

Evaluation = evaluation_service_pb2.Evaluation
Event = evaluation_service_pb2.WatchEvaluationResponse
BenchmarkScore = evaluation_service_pb2.BenchmarkScore

SCORES = ("BENCHMARK", "MODEL", "JUDGE", "MEASURE", "GROUP", "SCORE", "95 % INTERVAL", "JUDGED", "ABSTAINED", "FAILED")
COMPARISON = ("BENCHMARK", "JUDGE", "MEASURE", "GROUP", "ITEMS", "BASELINE", "MODEL", "95 % OF DIFFERENCE", "P")
NOTHING = "–"


async def show_events(events: AsyncIterable[Event], *, out: Output) -> Evaluation:
    """Shows the events of an evaluation until they end, and returns it as of the last event."""
    last = await follow(events, out=out, sentence=_sentence, picture=_picture)
    return (last or Event()).evaluation


def _sentence(event: Event) -> str:
    return event.message or job_view.state(event.evaluation)


def _picture(event: Event) -> RenderableType:
    return table(event.evaluation, message=event.message)


def table(evaluation: Evaluation, *, message: str = "") -> RenderableType:
    """The stages of an evaluation as a table for a terminal, with what it reused below."""
    return job_view.stage_table(evaluation, notes=(_reused(evaluation), message))


def _reused(evaluation: Evaluation) -> str:
    """What nobody was asked for, in one line; empty if that is nothing."""
    answers, judgements = (sum(s.reused for s in evaluation.stages if s.stage == name) for name in ("answer", "score"))
    if not answers + judgements:
        return ""
    return f"reused from earlier evaluations: {answers:,} answers, {judgements:,} judgements"


def show_preflight(evaluation: Evaluation, *, out: Output) -> None:
    """Prints what the pre-flight counted, and its warnings; nothing if there is no pre-flight yet."""
    if not evaluation.HasField("preflight") or out.as_json:
        return
    found = evaluation.preflight
    rows = [
        *((f"items of {b.benchmark.name}", f"{b.items:,}") for b in evaluation.manifest.benchmarks),
        ("answers to write", f"{found.answers:,}"),
        ("judgements to ask for", f"{found.judgements:,}"),
        *_mode_rows(evaluation),
        *((f"to be dropped: {reason}", f"{number:,}") for reason, number in sorted(found.dropped.items())),
    ]
    out.table(("PRE-FLIGHT", ""), rows, empty="")
    for warning in found.warnings:
        out.say(f"note: {warning}")


def show_modes(evaluation: Evaluation, *, out: Output) -> None:
    """Prints how media get into the answers; nothing if no item asks for any."""
    if rows := _mode_rows(evaluation):
        out.table(("MEDIA IN ANSWERS", ""), rows, empty="")


def _mode_rows(evaluation: Evaluation) -> list[tuple[str, str]]:
    return [
        (
            f"{mode.modality} of {_short(mode.model)}",
            f"agents mode: made by {_short(mode.generator)}" if mode.generator else "written by the model itself",
        )
        for mode in evaluation.manifest.modes
    ]


def show_scores(evaluation: Evaluation, *, out: Output) -> None:
    """Prints the scores of all items, and of each group."""
    out.table(SCORES, [_score_row(score) for score in evaluation.scores], empty="No scores yet.")


def show_comparison(found: evaluation_service_pb2.CompareEvaluationsResponse, *, out: Output) -> None:
    """Prints a comparison, and in what the two evaluations differ."""
    rows = [
        (
            one.benchmark,
            _short(one.judge),
            one.measure,
            one.group or "all",
            str(one.items),
            f"{one.baseline_value:.3f}",
            f"{one.value:.3f}",
            f"{one.low:+.3f} to {one.high:+.3f}" if one.HasField("low") else NOTHING,
            f"{one.p_value:.4f}" if one.HasField("p_value") else NOTHING,
        )
        for one in found.comparisons
    ]
    out.table(COMPARISON, rows, empty="The two have no score in common.")
    if found.unlike:
        out.say(f"note: the two evaluations differ in {', '.join(found.unlike)}: these scores do not measure the same.")


def _score_row(score: BenchmarkScore) -> tuple[str, ...]:
    has_value = score.HasField("value")
    against = f" vs {_short(score.baseline)}" if score.baseline else ""
    return (
        score.benchmark,
        f"{_short(score.model)}{against}",
        _short(score.judge),
        score.measure,
        score.group or "all",
        f"{score.value:.3f}" if has_value else NOTHING,
        f"{score.low:.3f} to {score.high:.3f}" if score.HasField("low") else NOTHING,
        str(score.judged),
        str(score.abstained),
        str(score.failed),
    )


def _short(model: str) -> str:
    return names.short_name(model) if model else NOTHING
