"""What the OpenAI-compatible door adds to an answer: Generate directly against a chat through the door, 64 in flight.

Three processes: services whose model answers after a fixed time, the console with the door, and this one, which asks.
Directly means the SDK's Generate with the model's full name. Through the door, aiohttp sends the chat (what the door
costs), or the `openai` package does (what its users see, their own client's work included); the door also looks up
which version is the newest, at most once a second. The three take turns, the first one alternating, and ratios are
those within a turn.
"""

import argparse
import asyncio
import contextlib
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import aiohttp
import openai

from benchmarks.__main__ import RESULTS, write
from benchmarks.engine import spread
from benchmarks.engine_endpoints import serving
from benchmarks.results_page import machine_facts, machine_line, number
from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.v1 import generation_pb2
from omnialign.v1.refinement_service_pb2 import GenerateItem, GenerateRequest

NAME = "door"
MODEL = "bench"
PROMPT = "What does the picture show, and how do you know? " * 20
MESSAGES: Any = [{"role": "user", "content": PROMPT}]
CONSOLE = """import os, sys
from services.console.__main__ import main
main({**os.environ, "OMNIALIGN_SERVER_PORT": sys.argv[2]})
"""
"""The program of the console, on a port that the command line names; all else is in the environment."""
WAYS = ("directly", "door, aiohttp", "door, openai")

Ask = Callable[[int], Awaitable[object]]

INTRODUCTION = f"""# The OpenAI-compatible door

Written by `make bench-door`; do not edit. {" ".join((__doc__ or "").split())}
"""


@contextlib.contextmanager
def services(folder: Path, *, milliseconds: float) -> Iterator[str]:
    """The address of services whose model answers after a fixed time."""
    words = (sys.executable, "-m", "benchmarks.door_services", str(folder), "--milliseconds", str(milliseconds))
    with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


@contextlib.contextmanager
def console(address: str) -> Iterator[str]:
    """The base URL of a console's door to these services."""
    words = (sys.executable, "-c", CONSOLE)
    with serving(words, {"OMNIALIGN_CONSOLE_GATEWAY_ADDRESS": address, "OMNIALIGN_SERVER_LOG_LEVEL": "WARNING"}) as url:
        yield url


@contextlib.asynccontextmanager
async def ways(address: str, url: str) -> AsyncIterator[Mapping[str, Ask]]:
    """How a model can be asked, by name."""
    chat = {"model": MODEL, "messages": MESSAGES, "temperature": 0}
    async with (
        AsyncClient(address) as direct,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as http,
        openai.AsyncOpenAI(base_url=url, api_key="none", max_retries=0) as client,
    ):
        name = await direct.find_model(MODEL)

        async def directly(seed: int) -> None:
            item = GenerateItem(id="0", prompt=content(PROMPT), seed=seed)
            sampling = generation_pb2.SamplingParams(top_p=1.0)
            async for result in direct.generate(GenerateRequest(model=name, items=[item], sampling=sampling)):
                assert result.HasField("response")

        async def by_aiohttp(seed: int) -> None:
            async with http.post(f"{url}/chat/completions", json={**chat, "seed": seed}) as answer:
                assert (await answer.json())["choices"]

        async def by_openai(seed: int) -> None:
            options: Any = {**chat, "seed": seed}
            assert (await client.chat.completions.create(**options)).choices

        yield dict(zip(WAYS, (directly, by_aiohttp, by_openai), strict=True))


async def measured(ask: Ask, *, requests: int, at_once: int) -> dict[str, float]:
    """Asks so many times, so many at once: seconds in all, and latencies."""
    latencies, left = list[float](), iter(range(requests))

    async def worker() -> None:
        for seed in left:
            begun = time.perf_counter()
            await ask(seed)
            latencies.append(time.perf_counter() - begun)

    begun = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(at_once)))
    return {
        "seconds": time.perf_counter() - begun,
        "p50": median(latencies),
        "p99": sorted(latencies)[-requests // 100],
    }


async def compare(address: str, url: str, settings: argparse.Namespace) -> dict[str, Any]:
    """All ways in turns."""
    counts = {"requests": settings.at_once * settings.rounds, "at_once": settings.at_once}
    turns: list[dict[str, dict[str, float]]] = []
    async with ways(address, url) as asks:
        for ask in asks.values():  # connections are made
            await measured(ask, requests=settings.at_once, at_once=settings.at_once)
        for turn in range(settings.repeats):
            order = WAYS if turn % 2 == 0 else WAYS[::-1]
            turns.append({way: await measured(asks[way], **counts) for way in order})
            print(json.dumps({way: round(turns[-1][way]["seconds"], 3) for way in WAYS}), flush=True)
    return {
        "requests per run": counts["requests"],
        "requests at a time": settings.at_once,
        "milliseconds per answer": settings.milliseconds,
        "runs of each way": settings.repeats,
        **{way: figures([turn[way] for turn in turns], requests=counts["requests"]) for way in WAYS},
        **{
            f"time, {way} / directly": spread([turn[way]["seconds"] / turn["directly"]["seconds"] for turn in turns])
            for way in WAYS[1:]
        },
    }


def figures(runs: Sequence[Mapping[str, float]], *, requests: int) -> dict[str, float]:
    """Medians over the runs of a way."""
    return {
        "requests per second": median(requests / run["seconds"] for run in runs),
        "latency p50 (ms)": 1000 * median(run["p50"] for run in runs),
        "latency p99 (ms)": 1000 * median(run["p99"] for run in runs),
    }


def page(machine: Mapping[str, Any], found: Mapping[str, Any]) -> str:
    """The results as Markdown."""
    rows = "\n".join(
        f"| {measure} | {' | '.join(number(found[way][measure]) for way in WAYS)} |" for measure in found[WAYS[0]]
    )
    ratios = "\n".join(
        f"- {name}: {number(found[name]['median'])} (from {number(found[name]['least'])} to "
        f"{number(found[name]['greatest'])})"
        for name in found
        if name.startswith("time, ")
    )
    return f"""{INTRODUCTION}
{machine_line(machine)}

{found["requests per run"]} requests, {found["requests at a time"]} at a time, each answered after \
{number(found["milliseconds per answer"])} ms; {found["runs of each way"]} runs of each way.

| measure | {" | ".join(WAYS)} |
|---|{"---|" * len(WAYS)}
{rows}

{ratios}
"""


def main() -> None:
    """Measures, prints and writes docs/results/door.{md,json}."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.door", description=__doc__)
    parser.add_argument("--at-once", type=int, default=64, help="requests at a time (%(default)s)")
    parser.add_argument("--rounds", type=int, default=10, help="requests of a run / requests at a time (%(default)s)")
    parser.add_argument("--milliseconds", type=float, default=1000.0, help="time of an answer (%(default)s)")
    parser.add_argument("--repeats", type=int, default=3, help="runs of each way (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    settings = parser.parse_args()
    machine = machine_facts()
    with (
        tempfile.TemporaryDirectory(prefix="omnialign-bench-") as folder,
        services(Path(folder), milliseconds=settings.milliseconds) as address,
        console(address) as url,
    ):
        found = asyncio.run(compare(address, url, settings))
    settings.results.mkdir(parents=True, exist_ok=True)
    write(settings.results / f"{NAME}.json", json.dumps({"machine": machine, **found}, indent=2) + "\n")
    write(settings.results / f"{NAME}.md", page(machine, found))
    print(page(machine, found))


if __name__ == "__main__":
    main()
