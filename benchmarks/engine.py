"""Requests per second of our critique client against a plain gather over `openai.AsyncOpenAI`, on the same endpoint.

Every run of a client is a process of its own (`benchmarks.engine_clients`), and the two take turns, the first one
alternating. Two endpoints: a stub in another process that answers after 20 ms, where the client is the bottleneck, and
`vllm serve` on the processor with a tiny random Qwen2.5-VL, where the endpoint is; the latter only where `make
test-vllm` has made its environment.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from benchmarks.__main__ import RESULTS, write
from benchmarks.engine_endpoints import MODEL, VLLM_PYTHON, stub, vllm
from benchmarks.results_page import machine_facts, machine_line, number

NAME = "engine_client"
CLIENTS = ("ours", "plain")
MIB = 1 << 20
TOKENS = 16

Run = Mapping[str, float]

INTRODUCTION = f"""# The critique client against a plain gather

Written by `make bench-engine`; do not edit. Ours is the critique client as its service uses it: items and media in,
four chunks of 64 at a time as a job sends them, prompts rendered, the engine's queue, limits and retries, feedback
parsed; its connections are aiohttp's, by the openai package's `DefaultAioHttpClient`. Plain is `openai.AsyncOpenAI` as
it comes, with a semaphore of the same size and `asyncio.gather`, answers not parsed. The same conversations with the
same settings, half of them with a picture, at most {TOKENS} new tokens each; each run a process of its own, in turns.
Medians over the runs; latency from when a request has a place to when its answer is there; memory is what a process
grows by at its largest. Trust the ratios further than the absolute numbers.
"""


def run_client(client: str, url: str, *, requests: int, concurrency: int) -> dict[str, float]:
    """What one run of a client measured."""
    counts = ("--requests", str(requests), "--concurrency", str(concurrency), "--tokens", str(TOKENS))
    command = (sys.executable, "-m", "benchmarks.engine_clients", client, "--base-url", url, "--model", MODEL, *counts)
    output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    found: dict[str, float] = json.loads(output.splitlines()[-1])
    return found


def compare(url: str, *, requests: int, concurrency: int, repeats: int) -> dict[str, Any]:
    """Runs both clients in turns and collects the results."""
    turns: list[dict[str, Run]] = []
    for turn in range(repeats):
        order = CLIENTS if turn % 2 == 0 else CLIENTS[::-1]
        turns.append({c: run_client(c, url, requests=requests, concurrency=concurrency) for c in order})
        print(json.dumps({c: round(rate(turns[-1][c]), 1) for c in CLIENTS}), flush=True)
    return {
        "requests per run": requests,
        "requests at a time": concurrency,
        "runs of each client": repeats,
        **{client: figures([turn[client] for turn in turns]) for client in CLIENTS},
        "requests per second, ours / plain": spread([rate(turn["ours"]) / rate(turn["plain"]) for turn in turns]),
    }


def rate(run: Run) -> float:
    """Requests per second."""
    return run["requests"] / run["seconds"]


def figures(runs: Sequence[Run]) -> dict[str, float]:
    """Medians over the runs of a client; errors are the sum."""
    return {
        "requests per second": median(map(rate, runs)),
        "latency p50 (ms)": 1000 * median(run["p50_seconds"] for run in runs),
        "latency p99 (ms)": 1000 * median(run["p99_seconds"] for run in runs),
        "processor time per request (ms)": 1000 * median(run["processor_seconds"] / run["requests"] for run in runs),
        "memory grown (MiB)": median(run["grown_bytes"] for run in runs) / MIB,
        "memory at its largest (MiB)": median(run["largest_bytes"] for run in runs) / MIB,
        "errors": sum(run["errors"] for run in runs),
    }


def spread(ratios: Sequence[float]) -> dict[str, float]:
    """Median, least and greatest of the ratios within each turn."""
    return {"median": median(ratios), "least": min(ratios), "greatest": max(ratios)}


def page(machine: Mapping[str, Any], found: Mapping[str, Mapping[str, Any]]) -> str:
    """The results as Markdown."""
    return "\n".join([INTRODUCTION, machine_line(machine), "", *(section(*entry) for entry in found.items())])


def section(endpoint: str, result: Mapping[str, Any]) -> str:
    """One endpoint: a row per figure, a column per client."""
    ours, plain = (result[client] for client in CLIENTS)
    rows = "\n".join(f"| {name} | {number(ours[name])} | {number(plain[name])} |" for name in ours)
    ratio = result["requests per second, ours / plain"]
    return (
        f"## Endpoint: {endpoint}\n\n{result['requests per run']} requests, {result['requests at a time']} at a time, "
        f"{result['runs of each client']} runs of each client.\n\n| measure | ours | plain |\n|---|---|---|\n{rows}\n\n"
        f"Requests per second, ours / plain: {number(ratio['median'])} (from {number(ratio['least'])} to "
        f"{number(ratio['greatest'])}).\n"
    )


def main() -> None:
    """Measures, prints and writes docs/results/engine_client.{md,json}."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.engine", description=__doc__)
    parser.add_argument("--requests", type=int, default=2000, help="requests of a run on the stub (%(default)s)")
    parser.add_argument("--served", type=int, default=300, help="requests of a run on vLLM (%(default)s)")
    parser.add_argument("--concurrency", type=int, default=64, help="requests at a time (%(default)s)")
    parser.add_argument("--repeats", type=int, default=5, help="runs of each client (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    settings = parser.parse_args()
    machine, found, counts = machine_facts(), {}, {"concurrency": settings.concurrency, "repeats": settings.repeats}
    with stub() as url:
        found["a stub that answers after 20 ms"] = compare(url, requests=settings.requests, **counts)
    if VLLM_PYTHON.exists():
        with tempfile.TemporaryDirectory() as folder, vllm(Path(folder) / MODEL) as url:
            found["vllm serve on the processor"] = compare(url, requests=settings.served, **counts)
    settings.results.mkdir(parents=True, exist_ok=True)
    write(settings.results / f"{NAME}.json", json.dumps({"machine": machine, **found}, indent=2) + "\n")
    write(settings.results / f"{NAME}.md", page(machine, found))
    print(page(machine, found))


if __name__ == "__main__":
    main()
