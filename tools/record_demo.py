"""Writes the results of demo runs into README.md and docs/results/demo.md: `python -m tools.record_demo REPORT.json`.

The first report is shown by subtask, all of them by seed. Only the text between the markers is replaced. With `--page`,
the results are those of another example, and only that page is written. With `--methods`, the reports are of one seed
and several methods, and only the table of methods is written.
"""

import argparse
import json
import re
from pathlib import Path
from typing import Any

from benchmarks.results_page import machine_facts

ROOT = Path(__file__).resolve().parent.parent
README, RESULTS = ROOT / "README.md", ROOT / "docs" / "results" / "demo.md"
BLOCK = r"(<!-- {name}[^>]*-->\n).*?(<!-- END OF {name} -->)"

Report = dict[str, Any]


def record(reports: list[Report], *, page: Path = RESULTS) -> None:
    """Replaces the block of a page, and for the demo itself that of the README."""
    if page == RESULTS:
        replace_block(README, _summary(reports))
    replace_block(page, "\n\n".join((_machine(), _by_subtask(reports[0]), _stages(reports[0]), _by_seed(reports))))


def record_methods(reports: list[Report]) -> None:
    """Replaces the table of methods, the best first."""
    names = ("method", "base", "aligned", "gain, points", "95 % interval", "least gain of a subtask")
    head = f"| {' | '.join(names)} |\n|{'---|' * len(names)}"
    best_first = sorted(reports, key=lambda report: -report["mean"]["gain"])
    replace_block(RESULTS, "\n".join([head, *map(_method_row, best_first)]), name="METHODS")


def replace_block(path: Path, text: str, *, name: str = "RESULTS") -> None:
    """Replaces the text between the markers of a page. Exits if it has no such block, or several."""
    block = re.compile(BLOCK.format(name=name), re.DOTALL)
    changed, count = block.subn(lambda block: f"{block[1]}{text}\n{block[2]}", path.read_text())
    if count != 1:
        raise SystemExit(f"{path.name} has no single block {name}.")
    path.write_text(changed)


def _summary(reports: list[Report]) -> str:
    first, gains = reports[0], [100 * report["mean"]["gain"] for report in reports]
    pairs, mean = first["pairs"], first["mean"]
    over = f"Over {len(reports)} seeds the mean gain was {min(gains):+.1f} to {max(gains):+.1f} points"
    if len(reports) == 1:
        over = f"The mean gain was {gains[0]:+.1f} points"
    return (
        f"With seed {first['seed']} the share of fully correct answers went from {_percent(mean['base'])} to "
        f"{_percent(mean['aligned'])}\n(mean of the {len(first['subtasks'])} tasks). Of {pairs['tried']} refinements "
        f"the gate kept {pairs['kept']}; {pairs['tied']} tied, {pairs['lost']} lost, {pairs['abstained']} abstained.\n"
        f"{over}:\n"
        "[docs/results/demo.md](docs/results/demo.md) has the figures by task."
    )


def _machine() -> str:
    facts = machine_facts()
    return f"Machine: {facts['cores']} cores of {facts['cpu']}, {facts['memory_gib']} GiB, no GPU."


def _by_subtask(report: Report) -> str:
    head = (
        f"Seed {report['seed']}:\n\n| subtask | base | aligned | gain, points | 95 % interval |\n|---|---|---|---|---|"
    )
    rows = [_row(name, entry) for name, entry in report["subtasks"].items()]
    return "\n".join([head, *rows, _row("**mean**", report["mean"]), "", _fate(report)])


def _row(name: str, entry: Report) -> str:
    low, high = (100 * bound for bound in entry["gain_interval"])
    shares = f"{_percent(entry['base'])} | {_percent(entry['aligned'])} | {100 * entry['gain']:+.1f}"
    return f"| {name} | {shares} | {low:+.1f} to {high:+.1f} |"


def _fate(report: Report) -> str:
    fates = ", ".join(f"{report['pairs'][fate]} {fate}" for fate in ("kept", "tied", "lost", "abstained"))
    return f"Pairs: {report['pairs']['tried']} tried; {fates}."


def _stages(report: Report) -> str:
    rows = [f"| {name} | {stage['seconds']:.0f} |" for name, stage in report["stages"].items()]
    return "\n".join(["| stage | seconds at work |", "|---|---|", *rows])


def _by_seed(reports: list[Report]) -> str:
    head = "| seed | base | aligned | gain, points | least gain of a subtask | pairs kept |\n|---|---|---|---|---|---|"
    return "\n".join([head, *map(_seed_row, reports)])


def _seed_row(report: Report) -> str:
    mean = report["mean"]
    shares = f"{_percent(mean['base'])} | {_percent(mean['aligned'])} | {100 * mean['gain']:+.1f}"
    return f"| {report['seed']} | {shares} | {_least(report)} | {report['pairs']['kept']} |"


def _method_row(report: Report) -> str:
    return f"{_row(report['spec']['optimization']['method'], report['mean'])} {_least(report)} |"


def _least(report: Report) -> str:
    name, entry = min(report["subtasks"].items(), key=lambda entry: entry[1]["gain"])
    return f"{100 * entry['gain']:+.1f} ({name})"


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("reports", nargs="+", type=Path)
    parser.add_argument("--page", type=Path, default=RESULTS)
    parser.add_argument("--methods", action="store_true", help="write the table of methods")
    arguments = parser.parse_args()
    reports = [json.loads(path.read_text()) for path in arguments.reports]
    if arguments.methods:
        record_methods(reports)
    else:
        record(reports, page=arguments.page)


if __name__ == "__main__":
    main()
