"""What an export says when it is done."""

from pathlib import Path
from typing import TYPE_CHECKING

from omnialign.wording import counted

if TYPE_CHECKING:
    from omnialign.cli.output import Output
    from omnialign.exporting import ExportCounts


def report(done: "ExportCounts", folder: Path, *, out: "Output", noun: str = "row") -> None:
    """Says what was exported, and what was not and why."""
    counts = {"left_out": dict(done.left_out), "without": dict(done.without)}
    out.record({"folder": str(folder), f"{noun}s": done.rows, "media": done.media, **counts})
    out.say(f"{folder}: {counted(done.rows, noun)}, {counted(done.media, 'media file')}")
    for reason, count in done.left_out.items():
        out.say(f"left out {count}: {reason}")
    for lost, count in done.without.items():
        out.say(f"not written: {lost} of {counted(count, 'record')}, for which the columns have no place")
