"""Fetches a report and prints its main numbers."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from omnialign.cli.output import Output
from omnialign.cli.state import replace_file
from omnialign.v1 import alignment_service_pb2

if TYPE_CHECKING:
    from omnialign.client import AsyncClient

Format = alignment_service_pb2.GetAlignmentReportRequest
HEADINGS = ("SUBTASK", "BASE", "ALIGNED", "GAIN", "95 % INTERVAL", "JUDGE'S WIN RATE")


async def fetch(client: "AsyncClient", name: str, folder: Path) -> dict[str, Any]:
    """Writes `report.json` and `report.html` of a job into a folder and returns the numbers."""
    data = await client.get_alignment_report(name, Format.FORMAT_JSON)
    page = await client.get_alignment_report(name, Format.FORMAT_HTML)
    replace_file(folder / "report.json", data)
    replace_file(folder / "report.html", page)
    numbers: dict[str, Any] = json.loads(data)
    return numbers


def show(numbers: dict[str, Any], *, folder: Path, out: Output) -> None:
    """The table of subtasks, the pairs, and where the page is."""
    rows = [_row(name, measures) for name, measures in numbers["subtasks"].items()]
    out.table(HEADINGS, [*rows, _row("mean", numbers["mean"])], empty="")
    pairs = numbers["pairs"]
    fates = ", ".join(f"{pairs[fate]} {fate}" for fate in ("kept", "tied", "lost", "abstained"))
    out.say(f"Fully correct answers by the checker. Pairs: {fates}, of {pairs['tried']} tried.")
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
