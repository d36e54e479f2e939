"""The page and the picture of `benchmarks.scale`."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import matplotlib as mpl

from benchmarks.results_page import machine_line

mpl.use("Agg")
import matplotlib.pyplot as plt

COLOURS = {"data": "#2563eb", "alignment": "#dc2626", "evaluation": "#16a34a"}
INTRODUCTION = """# Cost and memory by the number of records

Written by `make bench-scale`; do not edit. Alignment jobs of each size, each in processes of its own, with models that
answer at once: what is left is what the orchestrator and the stores cost. Sizes ran upwards and then down again, the
largest once, and medians count. *Records per second* counts records through sample, critique, refine and verify; *job*
is everything from submission to report. Then the evaluation service has one model answer all the prompts and one judge
rate the answers: *evaluation*, from submission to report. *Models* is what the models take of the loop's time: they do
the same for each record, so that it tells the throughput even if the machine itself got slower or faster. *Memory* is
the most that a process had resident (VmHWM).
"""
TITLES = {"local": "SQLite and local files", "s3+postgresql": "PostgreSQL and S3, on the same machine"}


def page(found: Mapping[str, Any]) -> str:
    """The whole page in Markdown."""
    parts = [INTRODUCTION, machine_line(found["machine"]), "\n![Records per second, and memory](scale.png)\n"]
    parts += ["\n".join(_section(title, found[place])) for place, title in TITLES.items() if place in found]
    return "\n".join(parts)


def _section(title: str, result: Mapping[str, Any]) -> Iterator[str]:
    names = list(result["sizes"][0]["peak_mib"])
    yield f"## {title}\n"
    columns = ["records", "records/s", "ms a record", "job (s)", "evaluation (s)", "models"]
    columns += [*(f"{name} (MiB)" for name in names), "bytes stored a record"]
    yield f"| {' | '.join(columns)} |"
    yield "|---" * len(columns) + "|"
    for row in result["sizes"]:
        memory = " | ".join(f"{row['peak_mib'][name]:,.0f}" for name in names)
        yield (
            f"| {row['records']:,} | {row['records_per_second']:,.0f} | {row['ms_per_record']:.2f} |"
            f" {row['job_seconds']:,.0f} | {row['evaluation_seconds']:,.0f} | {100 * row['models_share']:.1f} % |"
            f" {memory} | {row['stored_bytes_per_record']:,} |"
        )
    yield (
        f"\nLargest to smallest size: records per second {result['throughput_ratio']:.2f} (by the models' time"
        f" {result['throughput_ratio_at_equal_speed']:.2f}), memory {result['memory_ratio']:.2f}; memory of the largest"
        f" to the size before it {result['memory_ratio_to_next_smaller']:.2f}.\n"
    )
    yield from _projection(result["sizes"][-2], result["sizes"][-1], result["projection"])


def _projection(before: Mapping[str, Any], largest: Mapping[str, Any], found: Mapping[str, Any]) -> Iterator[str]:
    n0, n1, n = before["records"], largest["records"], found["records"]

    def line(low: float, high: float, unit: str) -> str:
        return f"{high:,.0f} {unit} + ({n:,} - {n1:,}) x ({high:,.0f} - {low:,.0f}) {unit} / ({n1:,} - {n0:,})"

    yield f"**{n:,} records**, if both go on as from {n0:,} to {n1:,} records:\n"
    yield f"- the loop: {line(before['loop_seconds'], largest['loop_seconds'], 's')} = **{found['loop_hours']:g} h**;"
    for name, high in largest["peak_mib"].items():
        in_full = line(before["peak_mib"][name], high, "MiB")
        yield f"- memory of {name}: {in_full} = **{found['peak_mib'][name]:,.0f} MiB**;"
    yield f"- stored: {n:,} x {largest['stored_bytes_per_record']:,} bytes = **{found['stored_gib']:g} GiB**.\n"


def plot(found: Mapping[str, Any], path: Path) -> None:
    """Writes the picture: records per second on the left, memory on the right."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), constrained_layout=True)
    for place, style in (("local", "-"), ("s3+postgresql", "--")):
        rows = found[place]["sizes"] if place in found else []
        sizes = [row["records"] for row in rows]
        title = TITLES[place].partition(",")[0]
        left.plot(sizes, [row["records_per_second"] for row in rows], style, marker="o", color="#111827", label=title)
        for name, colour in COLOURS.items():
            memory = [row["peak_mib"][name] for row in rows]
            right.plot(sizes, memory, style, marker="o", color=colour, label=f"{name}: {title}")
    left.set_ylabel("records per second")
    right.set_ylabel("peak resident memory, MiB")
    for axis in (left, right):
        axis.set_xscale("log")
        axis.set_ylim(0, 1.15 * axis.dataLim.y1)
        axis.set_xlabel("records")
        axis.legend(frameon=False)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)
    plt.close(figure)
