"""Measures the gate of tiny-world jobs by the oracle: `python -m tools.measure_gate STATE...`.

Each STATE is the folder of a stack (`omnialign up --root STATE`, or `state` in the folder of a demo's run) whose newest
alignment job calibrated its gate. The rules are compared on the same refinements, by the margins that their records
keep: the words are the likelier verdict of each order. Only the text between the markers of
docs/results/gate.md is replaced.
"""

import argparse
import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from examples.tinyworld import oracle
from omnialign.client import AsyncClient
from omnialign.content import media_of
from omnialign.modeling.inputs import pieces
from omnialign.v1 import alignment_service_pb2, record_pb2
from services.alignment import calibration, gate
from services.embedded import configure_logging, embedded
from tools.record_demo import ROOT, replace_block

PAGE = ROOT / "docs" / "results" / "gate.md"
PRECISIONS = (0.7, 0.75, 0.8, 0.85, 0.9, 0.95)

Job = alignment_service_pb2.AlignmentJob
Record = record_pb2.Record


@dataclass(frozen=True)
class Refinement:
    """A refinement that changed something, and that the judge compared."""

    forward: float
    backward: float
    is_better: bool
    """Whether the oracle gives it a higher total than the response."""

    @property
    def margin(self) -> float:
        """The mean margin of both orders."""
        return (self.forward + self.backward) / 2


@dataclass(frozen=True)
class Run:
    """What one job left behind."""

    job: Job
    refinements: Sequence[Refinement]
    margins: Sequence[float]
    """Of the held-out annotated pairs."""
    reports: Sequence[dict[str, Any]] = ()
    """Of all alignment jobs of the stack that succeeded, whatever their gate's rule."""

    @property
    def better(self) -> int:
        """Refinements that are better: what a perfect gate would keep."""
        return sum(r.is_better for r in self.refinements)

    def by_words(self) -> list[Refinement]:
        """What the words keep."""
        return [r for r in self.refinements if r.forward > 0 and r.backward > 0]

    def by_probability(self, found: calibration.Calibration) -> list[Refinement]:
        """What a calibration keeps; nothing if it has no threshold."""
        if found.threshold is None:
            return []
        return [r for r in self.refinements if calibration.probability(found.slope, r.margin) >= found.threshold]


async def read(state: Path) -> Run:
    """The newest alignment job of a stack that weighed its refinements, with its comparisons."""
    async with embedded(state) as stack, AsyncClient(stack.address) as client:
        job = await anext(job async for job in client.list_alignment_jobs() if gate.decides_by_probability(job.gate))
        table = job.name.replace("alignmentJobs", "datasets")
        compared = [record async for record in client.stream_records(f"{table}-calibration")]
        compared.sort(key=lambda record: (record.subtask, record.id))
        margins = [margin for record in compared if (margin := gate.margin_of(record.comparison)) is not None]
        found = [await _refinement(client, record) async for record in client.stream_records(f"{table}-verify")]
        jobs = [job async for job in client.list_alignment_jobs() if job.state == Job.STATE_SUCCEEDED]
        reports = [json.loads(await client.get_alignment_report(job.name)) for job in jobs]
        return Run(job, [refinement for refinement in found if refinement is not None], margins, reports)


async def _refinement(client: AsyncClient, record: Record) -> Refinement | None:
    if gate.margin_of(record.comparison) is None:
        return None
    contents = [record.prompt, *(response.content for response in record.responses)]
    media = {medium.sha256: await client.get_media(medium.sha256) for medium in media_of(contents)}
    prompt, before, after = (pieces(content, media) for content in contents)
    totals = [oracle.total(oracle.check(prompt, answer, record.subtask)) for answer in (before, after)]
    return Refinement(record.comparison.forward_margin, record.comparison.backward_margin, totals[1] > totals[0])


def page(runs: Sequence[Run]) -> str:
    """The tables."""
    return "\n\n".join((_by_seed(runs), _by_precision(runs), _gains(runs)))


def _by_seed(runs: Sequence[Run]) -> str:
    names = (
        "seed",
        "refinements that changed something",
        "better",
        "kept by words",
        "of these better",
        "kept by probability",
        "of these better",
        "pairs, times",
        "a perfect gate",
        "mean probability",
        "judge right on held-out pairs",
    )
    rows = []
    for run in runs:
        found = calibration.calibrate(run.margins, precision=run.job.gate.precision)
        words, kept = run.by_words(), run.by_probability(found)
        mean = sum(calibration.probability(found.slope, r.margin) for r in run.refinements) / len(run.refinements)
        rows.append(
            (
                run.job.spec.seed,
                len(run.refinements),
                f"{run.better} ({run.better / len(run.refinements):.1%})",
                len(words),
                _share(words),
                len(kept),
                _share(kept),
                f"{len(kept) / len(words):.2f}",
                f"{run.better / len(words):.2f}",
                f"{mean:.2f}",
                f"{found.accuracy:.1%} of {len(run.margins)}",
            )
        )
    return _table(names, rows)


def _by_precision(runs: Sequence[Run]) -> str:
    """What each demanded precision does, all runs together."""
    names = (
        "gate_precision",
        "held-out pairs decided",
        "rightly",
        "refinements kept",
        "of these better",
        "pairs, times",
    )
    words = sum(len(run.by_words()) for run in runs)
    rows = []
    for precision in PRECISIONS:
        found = [calibration.calibrate(run.margins, precision=precision) for run in runs]
        kept = [r for run, one in zip(runs, found, strict=True) for r in run.by_probability(one)]
        pairs = sum(len(run.margins) for run in runs)
        decided = [one.held_out.share * len(run.margins) for run, one in zip(runs, found, strict=True)]
        right = sum(n * (one.held_out.precision or 0) for n, one in zip(decided, found, strict=True))
        rightly = f"{right / sum(decided):.1%}" if sum(decided) else "–"
        row = (precision, f"{sum(decided) / pairs:.1%}", rightly, len(kept), _share(kept), f"{len(kept) / words:.2f}")
        rows.append(row)
    return _table(names, rows)


def _gains(runs: Sequence[Run]) -> str:
    """What optimising on the pairs of each gate gained."""
    names = ("seed", "gate", "pairs kept", "base", "aligned", "gain, points", "95 % interval")
    rows = []
    for report in (report for run in runs for report in run.reports):
        mean, low_high = report["mean"], [f"{100 * end:+.1f}" for end in report["mean"]["gain_interval"]]
        rule = (report["gate"] or {"rule": "words"})["rule"]
        shares = (f"{mean['base']:.1%}", f"{mean['aligned']:.1%}", f"{100 * mean['gain']:+.1f}", " to ".join(low_high))
        rows.append((report["seed"], rule, report["pairs"]["kept"], *shares))
    return _table(names, sorted(rows))


def _share(kept: Sequence[Refinement]) -> str:
    return f"{sum(r.is_better for r in kept) / len(kept):.1%}" if kept else "–"


def _table(names: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    lines = [" | ".join(names), "---|" * (len(names) - 1) + "---", *(" | ".join(map(str, row)) for row in rows)]
    return "\n".join(f"| {line} |" if "---" not in line else f"|{line}|" for line in lines)


async def _read_all(states: Sequence[Path]) -> list[Run]:
    return [await read(state) for state in states]


def main() -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("states", type=Path, nargs="+")
    configure_logging("ERROR")
    replace_block(PAGE, page(asyncio.run(_read_all(parser.parse_args().states))), name="RESULTS")


if __name__ == "__main__":
    main()
