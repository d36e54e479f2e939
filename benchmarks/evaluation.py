"""Items per second of an evaluation against a plain asyncio client that does the same work on the same endpoint.

Every run is a process of its own (`benchmarks.evaluation_clients`), and the two take turns, the first one alternating.
The endpoint, in another process, answers after a fixed time, and so many requests at once. Our process then does the
same evaluation again, and nothing has changed: that is what the durable cache saves.
"""

import argparse
import json
import subprocess
import sys
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.__main__ import RESULTS, write
from benchmarks.engine import CLIENTS, spread
from benchmarks.engine_endpoints import serving
from benchmarks.evaluation_endpoint import MODELS
from benchmarks.results_page import machine_facts, machine_line, number

NAME = "evaluation"
Run = Mapping[str, Any]

INTRODUCTION = """# An evaluation against a plain client

Written by `make bench-eval`; do not edit. Ours is an evaluation on the stack of a laptop, from the request to the end
of the job: pre-flight, answers, ratings, durable tables, scores with intervals, the report. Plain is
`openai.AsyncOpenAI` as it comes, with a semaphore of the same size and `asyncio.gather`: each answer is rated as soon
as it is there, ratings are averaged, and nothing is stored. The benchmark is `amu`: questions, half of them with a
picture, answered by two models and rated by one judge. Each run is a process of its own, in turns; what a process takes
to start is left out. Both come to the same means. The second run is the same evaluation once more in the same process,
with nothing changed: it may ask nobody, and must come to the same scores, byte for byte. Medians over the runs.
"""


@contextmanager
def endpoint(*, milliseconds: float, at_once: int) -> Iterator[str]:
    """The address of the endpoint."""
    options = ("--milliseconds", str(milliseconds), "--at-once", str(at_once))
    with serving((sys.executable, "-m", "benchmarks.evaluation_endpoint", *options), {}) as url:
        yield url


def run_client(client: str, url: str, *, items: int, at_once: int) -> dict[str, Any]:
    """What one run of a client measured, and how many requests it sent."""
    before = asked(url)
    options = ("--base-url", url, "--items", str(items), "--at-once", str(at_once))
    command = (sys.executable, "-m", "benchmarks.evaluation_clients", client, *options)
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    found: dict[str, Any] = json.loads(output.splitlines()[-1])
    return found | {"requests": asked(url) - before}


def asked(url: str) -> int:
    """How many requests the endpoint has had."""
    with urllib.request.urlopen(f"{url}/asked") as answer:
        return int(json.load(answer))


def compare(url: str, *, items: int, at_once: int, milliseconds: float, repeats: int) -> dict[str, Any]:
    """Runs both clients in turns and collects the results. Raises RuntimeError if they did not do the same."""
    turns: list[dict[str, Run]] = []
    for turn in range(repeats):
        order = CLIENTS if turn % 2 == 0 else CLIENTS[::-1]
        turns.append({c: run_client(c, url, items=items, at_once=at_once) for c in order})
        print(json.dumps({c: round(turns[-1][c]["seconds"], 2) for c in CLIENTS}), flush=True)
        check(turns[-1], items=items)
    return {
        "items": items,
        "models": len(MODELS),
        "requests per run": 2 * items * len(MODELS),
        "requests at a time": at_once,
        "milliseconds per request": milliseconds,
        "runs of each client": repeats,
        **{client: figures([turn[client] for turn in turns], items=items) for client in CLIENTS},
        "items per second, ours / plain": spread([t["plain"]["seconds"] / t["ours"]["seconds"] for t in turns]),
        "second run": {
            "seconds": median(turn["ours"]["again_seconds"] for turn in turns),
            "share of the first": spread([t["ours"]["again_seconds"] / t["ours"]["seconds"] for t in turns]),
            "share of the first, processor": spread(
                [t["ours"]["again_processor"] / t["ours"]["processor"] for t in turns]
            ),
        },
    }


def check(turn: Mapping[str, Run], *, items: int) -> None:
    """Raises RuntimeError unless both clients asked for the same, once, and our second run asked for nothing."""
    ours, plain = (turn[client] for client in CLIENTS)
    wanted = 2 * items * len(MODELS)
    problems = {
        "requests": (ours["requests"], plain["requests"]) != (wanted, wanted),
        "means": any(abs(ours["means"][name] - plain["means"][name]) > 1e-9 for name in MODELS),
        "reused": ours["again_reused"] != wanted,
        "scores of the second run": not ours["same"],
    }
    if wrong := [name for name, is_wrong in problems.items() if is_wrong]:
        raise RuntimeError(f"the two did not do the same: {', '.join(wrong)}: {turn}")


def figures(runs: Sequence[Run], *, items: int) -> dict[str, float]:
    """Medians over the runs of a client."""
    requests = runs[0]["requests"]
    return {
        "items per second": median(items / run["seconds"] for run in runs),
        "seconds": median(run["seconds"] for run in runs),
        "processor time per request (ms)": 1000 * median(run["processor"] / requests for run in runs),
    }


def page(machine: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    ours, plain = (found[client] for client in CLIENTS)
    rows = "\n".join(f"| {name} | {number(ours[name])} | {number(plain[name])} |" for name in ours)
    ratio, second = found["items per second, ours / plain"], found["second run"]
    share, processor = second["share of the first"], second["share of the first, processor"]
    ideal = found["requests per run"] / found["requests at a time"] * found["milliseconds per request"] / 1000
    return f"""{INTRODUCTION}
{machine_line(machine)}

{found["items"]} items, {found["models"]} models, one judge: {found["requests per run"]} requests of \
{number(found["milliseconds per request"])} ms, {found["requests at a time"]} at a time, so at least {number(ideal)} \
seconds; {found["runs of each client"]} runs of each client.

| measure | ours | plain |
|---|---|---|
{rows}

Items per second, ours / plain: {number(ratio["median"])} (from {number(ratio["least"])} to \
{number(ratio["greatest"])}).

The second run took {number(second["seconds"])} seconds: {percent(share["median"])} of the first (from \
{percent(share["least"])} to {percent(share["greatest"])}), and {percent(processor["median"])} of its processor time.
"""


def percent(value: float) -> str:
    """A share in per cent."""
    return f"{100 * value:.1f} %"


def main() -> None:
    """Measures, prints and writes docs/results/evaluation.{md,json}."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.evaluation", description=__doc__)
    parser.add_argument("--items", type=int, default=1000, help="items of the benchmark (%(default)s)")
    parser.add_argument("--at-once", type=int, default=32, help="requests at a time (%(default)s)")
    parser.add_argument("--milliseconds", type=float, default=300.0, help="time of a request (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each client (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    settings = parser.parse_args()
    machine = machine_facts()
    counts = {"at_once": settings.at_once, "milliseconds": settings.milliseconds}
    with endpoint(**counts) as url:
        found = compare(url, items=settings.items, repeats=settings.repeats, **counts)
    settings.results.mkdir(parents=True, exist_ok=True)
    write(settings.results / f"{NAME}.json", json.dumps({"machine": machine, **found}, indent=2) + "\n")
    write(settings.results / f"{NAME}.md", page(machine, found))
    print(page(machine, found))


if __name__ == "__main__":
    main()
