"""Our streaming loop against three offline passes, on the same vLLM: `make bench-loop`.

Both sides sample, criticise and refine the same prompts with the same model, seeds and settings of vLLM, and both start
from nothing. The passes are three processes, each with a start of vLLM, that hand files to each other, as the published
scripts do. Ours is the alignment service over gRPC with one start of vLLM; it also verifies pairs meanwhile, which the
passes do not. Then either is killed when half of its work (half of its time, for the passes) is done.
"""

import argparse
import asyncio
import json
import os
import signal
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks import streaming_ours as ours
from benchmarks.results_page import machine_facts, section
from examples.tinyworld.pretrain import FOLDER
from omnialign.client import AsyncClient

REPOSITORY = Path(__file__).resolve().parent.parent
RESULTS = REPOSITORY / "docs" / "results"
PASSES = ("generate", "critique", "refine")
INTRODUCTION = "# Streaming loop\n\nWritten by `make bench-loop`; do not edit.\n\n"


def parse_arguments() -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.streaming", description=__doc__)
    parser.add_argument("--records", type=int, default=1000, help="prompts (%(default)s)")
    parser.add_argument("--vllm-python", default=str(REPOSITORY / ".venv-vllm" / "bin" / "python"))
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    return parser.parse_args()


def main() -> None:
    """Measures both sides and writes streaming_loop.json and streaming_loop.md."""
    settings = parse_arguments()
    facts = machine_facts()
    with tempfile.TemporaryDirectory(prefix="omnialign-bench-") as folder:
        result = asyncio.run(measure(settings, Path(folder)))
    found = {"machine": facts, "result": result}
    settings.results.mkdir(parents=True, exist_ok=True)
    target = settings.results / "streaming_loop.json"
    target.write_text(json.dumps(found, indent=2) + "\n")
    page = INTRODUCTION + section("streaming", found)
    target.with_suffix(".md").write_text(page)
    print(page)


async def measure(settings: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Measures both sides, one after the other, and what each keeps after a kill."""
    mine = await run_ours(settings, folder)
    seconds, answers = run_passes(settings, folder / "passes", mine.pop("rows"))
    whole = sum(seconds.values())
    return {
        "title": "The loop as a stream against three passes over files",
        "about": (__doc__ or "").partition("\n\n")[2].replace("\n", " ").strip(),
        "records": settings.records,
        "ours": mine,
        "passes": {
            "seconds": round(whole, 2),
            "seconds of each": {name: round(value, 2) for name, value in seconds.items()},
            "records per second": round(settings.records / whole, 3),
            "records refined": answers,
            "kept after SIGKILL at half of the time": kept_by_passes(settings, folder, half=whole / 2),
        },
        "ratio of records per second": round(whole / mine["seconds"], 3),
    }


async def run_ours(settings: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """The loop once through, and once killed at half of its work."""
    async with ours.stack(folder / "ours", settings.vllm_python) as stack:
        start_seconds = await stack.start()
        async with AsyncClient(stack.cluster.address) as client:
            spec = await ours.prepare(client, folder / "dataset", settings.records, FOLDER)
            rows = await ours.rows_of(client, spec)
            begun = time.perf_counter()
            job = await ours.until(client, await ours.submit(client, spec), 1.0)
            loop_seconds = time.perf_counter() - begun
            refined = next(stage.completed for stage in job.stages if stage.stage == "refine")
    seconds = start_seconds + loop_seconds
    return {
        "rows": rows,
        "seconds": round(seconds, 2),
        "seconds until the services were ready": round(start_seconds, 2),
        "records per second": round(settings.records / seconds, 3),
        "records refined": refined,
        "kept after SIGKILL at half of the work": await kept_by_ours(settings, folder),
    }


async def kept_by_ours(settings: argparse.Namespace, folder: Path) -> float:
    """The share of the work that the services have after all of them were killed and started again."""
    async with ours.stack(folder / "killed", settings.vllm_python) as stack:
        await stack.start()
        async with AsyncClient(stack.cluster.address) as client:
            spec = await ours.prepare(client, folder / "again", settings.records, FOLDER)
            name = await ours.submit(client, spec)
            await ours.until(client, name, 0.5)
        stack.kill()
        await stack.start()
        async with AsyncClient(stack.cluster.address) as client:
            kept = await ours.kept(client, name)
            await ours.until(client, name, 1.0)
    return round(kept, 3)


def run_passes(settings: argparse.Namespace, folder: Path, rows: list[dict[str, Any]]) -> tuple[dict[str, float], int]:
    """Seconds of each pass, from its start to its end, and how many records came through."""
    folder.mkdir()
    (folder / "prompts.json").write_text(json.dumps(rows))
    seconds = {}
    for name, command in commands(settings, folder).items():
        begun = time.perf_counter()
        subprocess.run(command, cwd=REPOSITORY, check=True, stdout=subprocess.DEVNULL)
        seconds[name] = time.perf_counter() - begun
    return seconds, len(json.loads((folder / "refine.json").read_text()))


def kept_by_passes(settings: argparse.Namespace, folder: Path, *, half: float) -> float:
    """The share of the work that is in files when the passes are killed at half of their time."""
    killed = folder / "killed-passes"
    killed.mkdir()
    (killed / "prompts.json").write_text((folder / "passes" / "prompts.json").read_text())
    line = " && ".join(" ".join(command) for command in commands(settings, killed).values())
    process = subprocess.Popen(["sh", "-c", line], cwd=REPOSITORY, start_new_session=True, stdout=subprocess.DEVNULL)
    try:
        process.wait(half)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)
    done = sum(len(json.loads(file.read_text())) for name in PASSES if (file := killed / f"{name}.json").is_file())
    whole: int = settings.records * len(PASSES)
    return round(done / whole, 3)


def commands(settings: argparse.Namespace, folder: Path) -> dict[str, list[str]]:
    """The three passes, each reading what the one before wrote."""
    sources = ("prompts", *PASSES)
    return {
        name: [
            *(settings.vllm_python, "-m", "benchmarks.offline_pass", name),
            *(str(folder / f"{source}.json"), str(folder / f"{name}.json"), str(FOLDER)),
        ]
        for source, name in zip(sources, PASSES, strict=False)
    }


if __name__ == "__main__":
    main()
