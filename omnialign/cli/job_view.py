"""How an alignment job is shown: its pre-flight, its progress and its report; and the stages of a job of any kind."""

from __future__ import annotations

import json
from collections.abc import AsyncIterable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnialign import names
from omnialign.cli.follow import follow
from omnialign.cli.output import Output, clock
from omnialign.cli.state import replace_file
from omnialign.v1 import alignment_service_pb2

if TYPE_CHECKING:
    from rich.console import RenderableType

    from omnialign.client import AsyncClient


AlignmentJob = alignment_service_pb2.AlignmentJob
StageStatus = alignment_service_pb2.StageStatus
Event = alignment_service_pb2.WatchAlignmentJobResponse

MARKS = {
    StageStatus.STATE_PENDING: ("·", "dim"),
    StageStatus.STATE_RUNNING: ("●", "bold blue"),
    StageStatus.STATE_DONE: ("✓", "green"),
    StageStatus.STATE_SKIPPED: ("-", "dim"),
    StageStatus.STATE_FAILED: ("✗", "bold red"),
}
REPORT = "report"
BAR_WIDTH = 24
MIN_SHARE = 0.05
"""Of a stage, to tell its pace: the first steps take as long as their programs take to start."""


async def show_events(events: AsyncIterable[Event], *, out: Output) -> AlignmentJob:
    """Shows the events of a job until they end, and returns the job as of the last event."""
    last = await follow(events, out=out, sentence=_sentence, picture=_picture)
    return (last or Event()).alignment_job


def _sentence(event: Event) -> str:
    left = time_left(event)
    return f"{event.message or state(event.alignment_job)}{f' About {left} left.' if left else ''}"


def _picture(event: Event) -> RenderableType:
    return table(event.alignment_job, message=event.message, left=time_left(event))


def state(job: Any) -> str:
    """The state of a job of any kind in one word."""
    return str(job.State.Name(job.state)).removeprefix("STATE_").lower()


def pairs(job: AlignmentJob) -> str:
    """What became of the pairs, in one line; empty before the first."""
    p = job.pairs
    if not p.tried:
        return ""
    return f"pairs: {p.kept:,} kept, {p.tied:,} tied, {p.lost:,} lost, {p.abstained:,} abstained, of {p.tried:,} tried"


def held(job: AlignmentJob) -> list[str]:
    """What its training jobs wait for or do besides their steps, one line each."""
    return [
        f"{purpose}: {condition.message} [{condition.reason}]"
        for stage in job.stages
        if stage.state == StageStatus.STATE_RUNNING
        for purpose, condition in sorted(stage.conditions.items())
    ]


def time_left(event: Event) -> str:
    """About how long a running job will still take, as a clock; empty if nothing tells.

    What the pre-flight estimated less what has passed, or what the slowest stage needs at its present pace: the one
    knows the stages to come, the other knows the machine. Once none is to come that takes time, the pace alone counts.
    """
    job = event.alignment_job
    if job.state != AlignmentJob.STATE_RUNNING:
        return ""
    passed = (event.event_time.ToMilliseconds() - job.create_time.ToMilliseconds()) / 1000
    is_last = all(status.state != StageStatus.STATE_PENDING or status.stage == REPORT for status in job.stages)
    estimates = [0.0 if is_last else job.preflight.estimated_time.ToMilliseconds() / 1000 - passed]
    for status in job.stages:
        share = status.completed / max(status.total, 1)
        if status.state == StageStatus.STATE_RUNNING and MIN_SHARE <= share < 1:
            pace_seconds = status.elapsed.ToMilliseconds() / 1000 / status.completed
            estimates.append(pace_seconds * (status.total - status.completed))
    return clock(max(estimates)) if max(estimates) > 0 else ""


def rate(status: StageStatus) -> str:
    """The tokens per second of a stage; empty if it writes none."""
    seconds = status.elapsed.ToNanoseconds() / 1e9
    return f"{status.tokens / seconds:,.0f}" if status.tokens and seconds else ""


def table(job: AlignmentJob, *, message: str = "", left: str = "") -> RenderableType:
    """The stages of a job as a table for a terminal, with its pairs below; `left` is the time left."""
    return stage_table(job, notes=(pairs(job), job.gate.message, *held(job), message), left=left)


def stage_table(job: Any, *, notes: Iterable[str] = (), left: str = "") -> RenderableType:
    """The stages of a job of any kind as a table for a terminal, with notes below; `left` is the time left."""
    from rich import box
    from rich.console import Group
    from rich.progress_bar import ProgressBar
    from rich.table import Table
    from rich.text import Text

    grid = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    for heading in ("", "stage", "", "done", "tokens/s", "time", "quarantined"):
        grid.add_column(heading, justify="right" if heading in ("done", "tokens/s", "time", "quarantined") else "left")
    for status in job.stages:
        mark, style = MARKS.get(status.state, MARKS[StageStatus.STATE_PENDING])
        bar = ProgressBar(total=status.total or 1, completed=_completed(status), width=BAR_WIDTH)
        done = f"{status.completed:,}/{status.total:,}" if status.total else ""
        seconds = status.elapsed.ToNanoseconds() / 1e9
        quarantined = str(status.quarantined) if status.quarantined else ""
        name = status.stage.replace("_", " ")
        cells = (Text(mark, style=style), Text(name, style=style if mark in "·-" else ""), bar, done, rate(status))
        grid.add_row(*cells, clock(seconds) if seconds else "", quarantined)
    title = Text.assemble((names.id_of(job.name), "bold"), f"  {state(job)}{f', about {left} left' if left else ''}")
    return Group(title, grid, *(Text(line, style="dim") for line in dict.fromkeys(notes) if line))


def _completed(status: StageStatus) -> int:
    if status.state == StageStatus.STATE_DONE:
        return status.total or 1
    return min(status.completed, status.total)


def show_preflight(job: alignment_service_pb2.AlignmentJob, *, out: Output) -> None:
    """Prints the pre-flight's counts, estimates, losses and warnings; nothing if there is no pre-flight yet."""
    if not job.HasField("preflight") or out.as_json:
        return
    preflight = job.preflight
    by_subtask = ", ".join(f"{name} {number:,}" for name, number in sorted(preflight.prompts_by_subtask.items()))
    rows = [
        ("records for feedback training", f"{preflight.feedback_records:,}"),
        ("prompts to sample", f"{preflight.prompts:,} ({by_subtask})" if by_subtask else f"{preflight.prompts:,}"),
        ("prompts to evaluate", f"{preflight.evaluation_prompts:,}"),
        ("longest prompt, tokens", f"{preflight.longest_prompt_tokens:,}"),
        ("tokens to generate, estimated", f"{preflight.estimated_tokens:,}"),
        ("training memory, estimated", f"{preflight.estimated_training_bytes / 2**20:,.0f} MiB"),
        ("time, estimated", clock(preflight.estimated_time.ToNanoseconds() / 1e9)),
        *((f"to be dropped: {reason}", f"{number:,}") for reason, number in sorted(preflight.dropped.items())),
    ]
    out.table(("PRE-FLIGHT", ""), rows, empty="")
    for warning in preflight.warnings:
        out.say(f"note: {warning}")


Format = alignment_service_pb2.GetAlignmentReportRequest
HEADINGS = ("SUBTASK", "BASE", "ALIGNED", "GAIN", "95 % INTERVAL", "JUDGE'S WIN RATE")


async def fetch_report(client: AsyncClient, name: str, folder: Path) -> dict[str, Any]:
    """Saves a job's `report.json` and `report.html` in a folder and returns the numbers."""
    data = await client.get_alignment_report(name, Format.FORMAT_JSON)
    page = await client.get_alignment_report(name, Format.FORMAT_HTML)
    return save_report(folder, data=data, page=page)


def save_report(folder: Path, *, data: bytes, page: bytes, name: str = "report") -> dict[str, Any]:
    """Saves `report.json` and `report.html` in a folder, or files of another name, and returns the numbers."""
    replace_file(folder / f"{name}.json", data)
    replace_file(folder / f"{name}.html", page)
    numbers: dict[str, Any] = json.loads(data)
    return numbers


def show_report(numbers: dict[str, Any], *, folder: Path, out: Output) -> None:
    """Prints the table of subtasks, the pairs, and where the page is."""
    rows = [_row(name, measures) for name, measures in numbers["subtasks"].items()]
    out.table(HEADINGS, [*rows, _row("mean", numbers["mean"])], empty="")
    pairs = numbers["pairs"]
    outcomes = ", ".join(f"{pairs[outcome]} {outcome}" for outcome in ("kept", "tied", "lost", "abstained"))
    out.say(f"Shares are of fully correct answers, by the checker. Pairs: {outcomes}, of {pairs['tried']} tried.")
    if gate := numbers.get("gate"):
        out.say(gate["message"])
    out.say(f"Report: {(folder / 'report.html').resolve()}")


def _row(name: str, measures: dict[str, Any]) -> tuple[str, ...]:
    interval = measures["gain_interval"]
    between = f"{100 * interval[0]:+.0f} to {100 * interval[1]:+.0f}" if interval else "–"
    gain = f"{100 * measures['gain']:+.1f}" if measures["gain"] is not None else "–"
    return (
        name,
        _percent(measures["base"]),
        _percent(measures["aligned"]),
        gain,
        between,
        _percent(measures["win_rate"]),
    )


def _percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f} %"
