"""How long annotators wait for the annotation service, and what a pair takes beside Label Studio.

First leases, drafts and submissions of many people at once. The service is a process of its own, with the data service,
SQLite and a disk; every annotator has a connection of its own. Each leases a pair, saves a draft, comes back to it, and
submits, until no pair is left; then everything that was confirmed must be there, once. They work at two paces: one call
in three seconds each, which is faster than anyone writes, and without any pause, which says what the service and the
annotators, who share the machine, can do together. Then one annotator in a browser: `keystrokes`.
"""

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from benchmarks import keystrokes
from benchmarks.__main__ import RESULTS, write
from benchmarks.annotators import Diary, annotate_all, check, open_campaign
from benchmarks.results_page import machine_facts, machine_line, number
from omnialign.client import AsyncClient
from omnialign.errors import OmnialignError
from tests.processes import free_port

NAME = "people"
PACE_SECONDS = 3.0
START_SECONDS = 60.0

INTRODUCTION = """# Annotators

Written by `make bench-people`; do not edit.

## Many at once

How long annotators wait for leases, drafts and submissions. The service is
a process of its own, with the data service, SQLite and a disk; every annotator has a connection of its own. Each leases
a pair, saves a draft, comes back to it, and submits, until no pair is left. They work at two paces: one call in three
seconds each, which is faster than anyone writes, and without any pause, which says what the service and the annotators,
who share the machine, can do together.
"""


@contextlib.contextmanager
def serving(root: Path) -> Iterator[str]:
    """The address of the annotation service, which starts in a process of its own."""
    port = free_port()
    command = (sys.executable, "-m", "tests.chaos.annotation_stack", str(root), str(port))
    with (root / "service.log").open("wb") as log:
        process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


async def _answers(address: str) -> None:
    deadline = time.monotonic() + START_SECONDS
    async with AsyncClient(address) as client:
        while True:
            try:
                _ = [campaign async for campaign in client.list_campaigns()]
            except OmnialignError:
                if time.monotonic() > deadline:
                    raise
                await asyncio.sleep(0.1)
            else:
                return


async def measure(*, annotators: int, pairs: int, overlap: int, pace_seconds: float) -> dict[str, Any]:
    """One run. Raises AssertionError if an annotation was lost, doubled or changed."""
    diary = Diary(pace_seconds=pace_seconds)
    async with contextlib.AsyncExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        address = stack.enter_context(serving(folder))
        await _answers(address)
        clients = [await stack.enter_async_context(AsyncClient(address)) for _ in range(annotators)]
        campaign = await open_campaign(clients[0], count=pairs, overlap=overlap)
        begun = time.perf_counter()
        await annotate_all(clients, campaign, annotators=annotators, diary=diary)
        seconds = time.perf_counter() - begun
        await check(clients[0], campaign, diary)
    calls = sum(map(len, diary.seconds.values()))
    return {
        "annotations": len(diary.submitted),
        "calls": calls,
        "calls per second": calls / seconds,
        "p50 (ms)": 1000 * diary.percentile(0.5),
        "p99 (ms)": 1000 * diary.percentile(0.99),
        **{f"p99 of {name} (ms)": 1000 * diary.percentile(0.99, call=name) for name in sorted(diary.seconds)},
    }


def page(machine: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    paced, unpaced = found["one call in 3 s"], found["no pause"]
    rows = "\n".join(f"| {name} | {number(paced[name])} | {number(unpaced[name])} |" for name in paced)
    return f"""{INTRODUCTION}
{machine_line(machine)}

{found["annotators"]} annotators, {found["pairs"]} pairs, {found["overlap"]} annotations of each. Nothing was lost, \
doubled or changed.

| measure | one call in 3 s each | no pause |
|---|---|---|
{rows}

{keystrokes.section(found["keys"])}"""


def main() -> None:
    """Measures, prints and writes docs/results/people.{md,json}."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.people", description=__doc__)
    parser.add_argument("--annotators", type=int, default=200, help="people at once (%(default)s)")
    parser.add_argument("--pairs", type=int, default=400, help="pairs of the campaign (%(default)s)")
    parser.add_argument("--overlap", type=int, default=2, help="annotations of each pair (%(default)s)")
    parser.add_argument("--typed-pairs", type=int, default=7, help="pairs of the annotator in a browser (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    settings = parser.parse_args()
    machine = machine_facts()
    sizes = {"annotators": settings.annotators, "pairs": settings.pairs, "overlap": settings.overlap}
    runs = {"one call in 3 s": PACE_SECONDS, "no pause": 0.0}
    found = {**sizes, **{name: asyncio.run(measure(**sizes, pace_seconds=pace)) for name, pace in runs.items()}}
    found["keys"] = asyncio.run(keystrokes.measure(count=settings.typed_pairs))
    settings.results.mkdir(parents=True, exist_ok=True)
    write(settings.results / f"{NAME}.json", json.dumps({"machine": machine, **found}, indent=2) + "\n")
    write(settings.results / f"{NAME}.md", page(machine, found))
    print(page(machine, found))


if __name__ == "__main__":
    main()
