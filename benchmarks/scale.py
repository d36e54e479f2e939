"""One alignment job after the other, each with more records: what a record costs, and what memory the services take.

Models answer at once, so that all time is ours. Every run has processes and stores of its own, and the whole job runs:
pre-flight, planning, the four stages of the loop, pairs, evaluation and report. Beside the prompts there are records
for the feedback model (a sixteenth as many) and to evaluate (a sixty-fourth). Then an evaluation has one model answer
all prompts, and one judge rate the answers.

Sizes run upwards and then down again, the largest once, and short jobs several times each way: a machine that gets
slower or faster meanwhile does so for all. Where it keeps changing, that is not enough. The models do the same for each
record, however many there are, so the processor time that they take tells how fast the machine was:
`throughput_ratio_at_equal_speed` is the ratio of throughputs in that measure.

    make bench-scale

Writes docs/results/scale.json, scale.md and scale.png.
"""

import argparse
import asyncio
import contextlib
import json
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.__main__ import RESULTS, write
from benchmarks.results_page import machine_facts
from benchmarks.scale_page import page, plot
from benchmarks.scale_services import ScaleServices, on_s3_and_postgresql, on_this_machine
from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.v1 import alignment_service_pb2, evaluation_service_pb2, record_pb2

Job = alignment_service_pb2.AlignmentJob
Evaluation = evaluation_service_pb2.Evaluation
StageStatus = alignment_service_pb2.StageStatus
Record = record_pb2.Record

LOCAL_SIZES, REMOTE_SIZES = (4_000, 32_000, 256_000), (4_000, 64_000)
APPENDED_TOGETHER = 4_096
SHORT_RECORDS = 16_000
"""Smaller jobs run so often, one after the other, that they come to as many records."""
PROJECTED = 10_000_000
PLACES = {"local": on_this_machine, "s3+postgresql": on_s3_and_postgresql}


@dataclass(frozen=True)
class Found:
    """What one size showed."""

    records: int
    loop_seconds: float
    """From the first record that is sampled to the last that is judged."""
    job_seconds: float
    evaluation_seconds: float
    peak_bytes: dict[str, int]
    """The most resident memory of each service."""
    models_seconds: float
    """Processor time of the models in the loop."""
    stored_bytes: int
    """Of tables, media and SQLite's databases after the job, as files; PostgreSQL's are not counted."""

    @classmethod
    def together(cls, runs: Sequence["Found"]) -> "Found":
        """What several runs of a size showed: the median of times, and the most memory."""
        names, loop_seconds = runs[0].peak_bytes, median(run.loop_seconds for run in runs)
        return cls(
            records=runs[0].records,
            loop_seconds=loop_seconds,
            job_seconds=median(run.job_seconds for run in runs),
            evaluation_seconds=median(run.evaluation_seconds for run in runs),
            peak_bytes={name: max(run.peak_bytes[name] for run in runs) for name in names},
            models_seconds=loop_seconds * median(run.models_seconds / run.loop_seconds for run in runs),
            stored_bytes=max(run.stored_bytes for run in runs),
        )

    def row(self) -> dict[str, Any]:
        """As it is written down."""
        return {
            "records": self.records,
            "records_per_second": round(self.records / self.loop_seconds, 1),
            "ms_per_record": round(1000 * self.loop_seconds / self.records, 3),
            "loop_seconds": round(self.loop_seconds, 1),
            "job_seconds": round(self.job_seconds, 1),
            "evaluation_seconds": round(self.evaluation_seconds, 1),
            "models_share": round(self.models_seconds / self.loop_seconds, 4),
            "peak_mib": {name: round(size / 2**20, 1) for name, size in self.peak_bytes.items()},
            "stored_bytes_per_record": round(self.stored_bytes / self.records),
        }


async def measure(place: str, size: int) -> Found:
    """Runs a job over `size` prompts in processes of its own."""
    with tempfile.TemporaryDirectory(prefix="omnialign-scale-") as name:
        folder = Path(name)
        async with PLACES[place](folder) as services:
            async with services.client("data") as client:
                dataset = await store(client, size)
            loop_seconds, job_seconds, models_seconds = await run_job(services, dataset, size)
            stored = stored_bytes(folder)
            evaluation_seconds = await evaluate(services, dataset, size)
            peaks = services.peak_bytes()
            return Found(size, loop_seconds, job_seconds, evaluation_seconds, peaks, models_seconds, stored)


def stored_bytes(folder: Path) -> int:
    """The size of all files but logs. Services are still writing: one that goes meanwhile does not count."""
    sizes = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            sizes += path.stat().st_size if path.is_file() and path.suffix != ".log" else 0
    return sizes


async def store(client: AsyncClient, size: int) -> str:
    """Stores the records of a job; returns the name of the version."""
    dataset = await client.create_dataset("scale")
    waiting = list[Record]()
    for record in records(size):
        waiting.append(record)
        if len(waiting) == APPENDED_TOGETHER:
            await client.append_records(dataset.name, waiting)
            waiting = []
    await client.append_records(dataset.name, waiting)
    return str((await client.commit_version(dataset.name)).name)


def records(size: int) -> Iterator[Record]:
    """`size` prompts, then annotated records, then records to evaluate."""
    for number in range(size):
        yield _record(f"p{number:09d}", split="prompts")
    for number in range(max(1, size // 16)):
        record = _record(f"a{number:09d}", split="train")
        for words in ("good", "bad"):
            record.responses.add(content=content(words)).feedback.critique = words
        record.preference.preferred = 1
        yield record
    for number in range(max(1, size // 64)):
        yield _record(f"e{number:09d}", split="test")


async def run_job(services: ScaleServices, dataset: str, size: int) -> tuple[float, float, float]:
    """Seconds of the loop and of the whole job, and processor time of the models in the loop."""
    spec = alignment_service_pb2.AlignmentSpec(base_model="file:///null", dataset=dataset, evaluation_split="test")
    begun, ended, models_seconds, started = 0, 0, 0.0, time.perf_counter()
    async with services.client("alignment-0") as client:
        job = await client.create_alignment_job("scale", spec)
        async for event in client.watch_alignment_job(job.name):
            job, now = event.alignment_job, event.event_time.ToNanoseconds()
            stages = {stage.stage: stage for stage in job.stages}
            if not begun and stages["sample"].state == StageStatus.STATE_RUNNING and stages["sample"].total:
                begun, models_seconds = now, -services.models_seconds()
            if not ended and stages["verify"].state == StageStatus.STATE_DONE:
                ended, models_seconds = now, models_seconds + services.models_seconds()
            if sys.stdout.isatty():
                print(f"\r  {size:>9,} records: {stages['verify'].completed:>9,} judged", end="", flush=True)
    if job.state != Job.STATE_SUCCEEDED:
        raise RuntimeError(f"The job over {size} records ended with: {job.error.message}")
    if stages["verify"].completed != size or not ended:
        raise RuntimeError(f"Of {size} records, {stages['verify'].completed} were judged, and the stage did not end.")
    return (ended - begun) / 1e9, time.perf_counter() - started, models_seconds


async def evaluate(services: ScaleServices, dataset: str, size: int) -> float:
    """Seconds of an evaluation of all prompts."""
    spec, started = evaluation_service_pb2.EvaluationSpec(models=["file:///null"]), time.perf_counter()
    benchmark = spec.benchmarks.add(name="instruction_following", dataset=dataset, split="prompts")
    benchmark.judges.add(model="file:///null")
    async with services.client("evaluation") as client:
        found = await client.create_evaluation("scale-evaluation", spec)
        async for event in client.watch_evaluation(found.name):
            found = event.evaluation
    if found.state != Evaluation.STATE_SUCCEEDED:
        raise RuntimeError(f"The evaluation of {size} records ended with: {found.error.message}")
    if (judged := found.scores[0].judged) != size:
        raise RuntimeError(f"Of {size} records, {judged} were rated.")
    return time.perf_counter() - started


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The ratios of the largest to the smaller sizes, and what they promise for ten million records."""
    smallest, before, largest = rows[0], rows[-2], rows[-1]
    return {
        "sizes": list(rows),
        "throughput_ratio": round(largest["records_per_second"] / smallest["records_per_second"], 3),
        "throughput_ratio_at_equal_speed": round(largest["models_share"] / smallest["models_share"], 3),
        "memory_ratio": _greatest(largest, smallest),
        "memory_ratio_to_next_smaller": _greatest(largest, before),
        "projection": projection(before, largest),
    }


def _greatest(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The greatest ratio of peak memory over the services."""
    ratios: list[float] = [size / other["peak_mib"][name] for name, size in one["peak_mib"].items()]
    return round(max(ratios), 3)


def projection(before: dict[str, Any], largest: dict[str, Any], *, records: int = PROJECTED) -> dict[str, Any]:
    """What `records` would take, if time and memory go on growing as between the two largest sizes.

    t(n) = t1 + (n - n1) (t1 - t0) / (n1 - n0), the same for memory, and stored bytes in proportion.
    """
    n0, n1 = int(before["records"]), int(largest["records"])

    def line(low: float, high: float) -> float:
        return high + (records - n1) * (high - low) / (n1 - n0)

    return {
        "records": records,
        "from_sizes": [n0, n1],
        "loop_hours": round(line(before["loop_seconds"], largest["loop_seconds"]) / 3600, 2),
        "peak_mib": {
            name: round(line(before["peak_mib"][name], size), 1) for name, size in largest["peak_mib"].items()
        },
        "stored_gib": round(records * largest["stored_bytes_per_record"] / 2**30, 1),
    }


def in_turn(sizes: Sequence[int]) -> Iterator[int]:
    """The sizes in the order in which they run."""
    for size in (*sizes, *sizes[-2::-1]):
        yield from [size] * max(1, SHORT_RECORDS // size)


def _record(name: str, *, split: str) -> Record:
    words = f"Say {name}, and then say it again in other words."
    return Record(id=name, subtask="t2t", split=split, prompt=content(words))


def main() -> None:
    """Measures every size and writes the results after each place."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scale", description=__doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=LOCAL_SIZES, help="records (%(default)s)")
    parser.add_argument("--remote-sizes", type=int, nargs="*", default=REMOTE_SIZES, help="on S3 (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    settings = parser.parse_args()
    found: dict[str, Any] = {"machine": machine_facts()}
    for place, sizes in (("local", settings.sizes), ("s3+postgresql", settings.remote_sizes)):
        print(place, flush=True)
        runs = dict[int, list[Found]]()
        for size in in_turn(sizes):
            runs.setdefault(size, []).append(run := asyncio.run(measure(place, size)))
            print(f"  {size:>9,} records: {json.dumps(run.row())}", flush=True)
        if len(runs) > 1:
            found[place] = summary([Found.together(some).row() for some in runs.values()])
    for key in ("throughput_ratio", "memory_ratio"):
        found[key] = found["local"][key]
    write(settings.results / "scale.json", json.dumps(found, indent=2) + "\n")
    write(settings.results / "scale.md", page(found))
    plot(found, settings.results / "scale.png")
    print(page(found))


if __name__ == "__main__":
    main()
