"""What decoding media once saves: five stages over the same pictures, sounds and videos, with and without the cache.

    python -m benchmarks.media --images 200 --audios 100 --videos 50

Each stage reads every record's prompt by the adapter of a real architecture (Qwen2.5-Omni with its published processor
settings; the weights are tiny and never run), on two threads as an engine does. The first four stages share one cache,
as the services of an engine do; the fifth opens its own on the same folder, as a training job does. CPU time is that of
the process and of the children that decode for it, all threads, user and system. All of that decodes in the process
itself; a further pass of the first stage without a cache decodes in child processes, as services do.
"""

import argparse
import io
import json
import logging
import shutil
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import torch
from PIL import Image

from benchmarks.__main__ import RESULTS, write
from benchmarks.results_page import machine_facts, machine_line
from omnialign.media import write_audio, write_video
from omnialign.modeling.adapters import Adapter, load_adapter
from omnialign.modeling.decoding import decode_here, use_decoder
from omnialign.modeling.feature_cache import NO_CACHE, Cache, FeatureCache
from omnialign.modeling.inputs import MediaBytes, MediaPolicy, Pieces, Turn
from omnialign.modeling.prompts import render_comparison, render_critique, render_refinement, render_response
from omnialign.v1 import content_pb2, record_pb2
from services.sandbox.media import SandboxedDecoder, open_sandbox
from tests.model_factory.families import FAMILIES

POLICY = MediaPolicy(frames_per_second=2.0, max_frames=64, max_pixels=768 * 768, max_audio_seconds=60.0)
THREADS = 2
RATE_HZ, SOUND_SECONDS = 44_100, 10
VIDEO_SECONDS, FRAMES_PER_SECOND = (5, 6, 7, 8, 9, 10), 25
AIM = 1.3
SANDBOX_REPEATS = 5
WHERE = ("process", "children")
PUBLISHED: Mapping[str, Mapping[str, Any]] = {
    "image_processor": {"size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 1280}},
    "video_processor": {
        "size": {"shortest_edge": 128 * 28 * 28, "longest_edge": 28 * 28 * 768},
        "cap_pixels_per_frame": True,
    },
    "feature_extractor": {
        "feature_size": 128, "chunk_length": 300, "n_samples": 4_800_000, "nb_max_frames": 30_000,
    },
}  # fmt: skip
"""Settings of the published processors, where the tiny family has smaller ones."""
ANSWER: Pieces = ("It shows a red circle on the left, and there is nothing else that could be named.",)
FEEDBACK = record_pb2.Feedback(critique="The colour is right.", refinement="Say what is on the right.")

Stage = Callable[[Pieces], tuple[Turn, ...]]
STAGES: Mapping[str, Stage] = {
    "sample": lambda prompt: render_response(prompt).turns,
    "critique": lambda prompt: render_critique(prompt, ANSWER, ("prompt_adherence", "accuracy")).turns,
    "refine": lambda prompt: render_refinement(prompt, ANSWER, FEEDBACK).turns,
    "verify": lambda prompt: render_comparison(prompt, ANSWER, ("It shows nothing.",)).turns,
    "optimize": lambda prompt: render_response(prompt).turns,
}


def picture(random: np.random.Generator) -> bytes:
    """A JPEG of 1024 x 768 with the detail of a photograph."""
    coarse = Image.fromarray(random.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    pixels = np.asarray(coarse.resize((1024, 768), Image.Resampling.BICUBIC)).astype(np.int16)
    pixels += random.integers(-12, 13, pixels.shape, dtype=np.int16)
    buffer = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(buffer, format="JPEG", quality=90)
    return buffer.getvalue()


def sound(random: np.random.Generator) -> bytes:
    """Ten seconds at 44.1 kHz: a tone in noise."""
    times = np.arange(SOUND_SECONDS * RATE_HZ) / RATE_HZ
    tone = 0.3 * np.sin(2 * np.pi * random.uniform(100, 2000) * times)
    return write_audio((tone + 0.05 * random.standard_normal(len(times))).astype(np.float32), RATE_HZ)


def video(random: np.random.Generator) -> bytes:
    """Five to ten seconds of 640 x 360 at 25 frames per second: a view that moves over a scene."""
    coarse = Image.fromarray(random.integers(0, 255, (18, 36, 3), dtype=np.uint8))
    scene = np.asarray(coarse.resize((1140, 400), Image.Resampling.BICUBIC))
    count = int(random.choice(VIDEO_SECONDS)) * FRAMES_PER_SECOND
    return write_video(np.stack([scene[20:380, 2 * i : 2 * i + 640] for i in range(count)]), FRAMES_PER_SECOND)


KINDS: Mapping[str, tuple[int, Callable[[np.random.Generator], bytes]]] = {
    "images": (content_pb2.MODALITY_IMAGE, picture),
    "audios": (content_pb2.MODALITY_AUDIO, sound),
    "videos": (content_pb2.MODALITY_VIDEO, video),
}


def build_model(folder: Path) -> Path:
    """The tiny model with the settings of the published processor."""
    FAMILIES["qwen2_5_omni"].build(folder)
    path = folder / "processor_config.json"
    config = json.loads(path.read_text())
    for part, settings in PUBLISHED.items():
        config[part] |= settings
    path.write_text(json.dumps(config))
    return folder


def read_all(adapter: Adapter, data: Sequence[bytes], modality: int, stage: Stage) -> dict[str, float]:
    """Seconds to read the prompts of a stage. The media are new objects each time, as they are when fetched."""

    def read(medium: bytes) -> int:
        return len(adapter.encode(stage((MediaBytes(modality, medium), "What is this?")), POLICY).ids)

    wall, cpu = time.perf_counter(), cpu_seconds()
    with ThreadPoolExecutor(THREADS) as threads:
        tokens = sum(threads.map(read, data))
    return {"cpu": cpu_seconds() - cpu, "wall": time.perf_counter() - wall, "tokens": tokens}


def cpu_seconds() -> float:
    """Processor time of this process and of its children, those that still run among them."""
    own = psutil.Process()
    return sum(t.user + t.system for t in (p.cpu_times() for p in (own, *own.children(recursive=True))))


def five_stages(model: Path, data: Sequence[bytes], modality: int, folder: Path | None) -> dict[str, dict[str, float]]:
    """Each stage's seconds, with a cache in `folder` or without one."""
    engine: Cache = NO_CACHE if folder is None else FeatureCache(folder)
    found = {}
    for name, stage in STAGES.items():
        trainer: Cache = NO_CACHE if folder is None else FeatureCache(folder)
        adapter = load_adapter(model, trainer if name == "optimize" else engine)
        found[name] = read_all(adapter, data, modality, stage)
        print(f"  {'cached' if folder else 'plain'} {name}: {found[name]['cpu']:.1f} s CPU", flush=True)
    return found


def in_children(model: Path, data: Sequence[bytes], modality: int) -> dict[str, dict[str, float]]:
    """The first stage without a cache, decoded in this process and in children, in turn; the medians of each."""
    stage, rounds = STAGES["sample"], []
    with open_sandbox() as sandbox:
        children = SandboxedDecoder(sandbox)
        for decoder in (decode_here, children) * (SANDBOX_REPEATS + 1):
            use_decoder(decoder)
            rounds.append(read_all(load_adapter(model), data, modality, stage))
    here, there = rounds[2::2], rounds[3::2]  # the first round of each starts the children and touches new memory
    assert {r["tokens"] for r in rounds} == {here[0]["tokens"]}
    found = {
        name: {clock: statistics.median(r[clock] for r in some) for clock in ("cpu", "wall")}
        for name, some in zip(WHERE, (here, there), strict=True)
    }
    print(f"  in the process: {found['process']['cpu']:.1f} s CPU; in children: {found['children']['cpu']:.1f} s")
    return found


def compare(model: Path, name: str, count: int, folder: Path) -> dict[str, Any]:
    """Both ways over `count` media of a kind; a single pass is the mean of the five without a cache."""
    modality, make = KINDS[name]
    random = np.random.default_rng(count)
    data = [make(random) for _ in range(count)]
    print(f"{name}: {count}, {sum(map(len, data)) / 1e6:.0f} MB", flush=True)
    warm_up(model, data[0], modality)
    plain = five_stages(model, data, modality, None)
    cached = five_stages(model, data, modality, folder)
    assert [s["tokens"] for s in plain.values()] == [s["tokens"] for s in cached.values()]
    kept_bytes = sum(path.stat().st_size for path in folder.glob("*/*"))
    shutil.rmtree(folder)  # else the next kind pays for memory that a virtual machine has not touched before
    return {
        "count": count,
        "megabytes": sum(map(len, data)) / 1e6,
        "cache_megabytes": kept_bytes / 1e6,
        "plain": plain,
        "cached": cached,
        "sandbox": in_children(model, data, modality),
    }


def warm_up(model: Path, medium: bytes, modality: int) -> None:
    """Imports and compiled tables are paid for before anything is measured."""
    read_all(load_adapter(model), [medium], modality, STAGES["sample"])


def totals(kinds: Mapping[str, Mapping[str, Any]], clock: str) -> dict[str, float]:
    """Seconds of a single pass and of five stages either way, over some kinds."""
    plain = sum(stage[clock] for kind in kinds.values() for stage in kind["plain"].values())
    cached = sum(stage[clock] for kind in kinds.values() for stage in kind["cached"].values())
    single = plain / len(STAGES)
    return {"single": single, "plain": plain, "cached": cached, "ratio": cached / single if single else 0.0}


def page(machine: Mapping[str, Any], kinds: Mapping[str, Mapping[str, Any]]) -> str:
    """The results in words and tables."""
    overall = totals(kinds, "cpu")["ratio"]
    lines = [
        "# Media decoded once\n",
        "Written by `make bench-media`; do not edit. " + " ".join((__doc__ or "").split("\n\n")[2].split()) + "\n",
        f"{machine_line(machine)}\n",
        f"Five stages with the cache cost **{overall:.2f} times** the CPU time of a single pass without it; the aim is "
        f"at most {AIM}.\n",
        "| media | clock | single pass, s | five stages without, s | five stages with, s | with / single |",
        "|---|---|---|---|---|---|",
    ]
    rows = {f"{kind['count']} {name}": {name: kind} for name, kind in kinds.items()} | {"all": kinds}
    for label, some in rows.items():
        for clock in ("cpu", "wall"):
            t = totals(some, clock)
            cells = f"{t['single']:.1f} | {t['plain']:.1f} | {t['cached']:.1f} | {t['ratio']:.2f}"
            lines.append(f"| {label} | {clock} | {cells} |")
    lines += [
        "\nA single pass without the cache, medians of "
        f"{SANDBOX_REPEATS} in turn, where the media are decoded in the process or in its children:\n",
        "| media | clock | in the process, s | in children, s | children / process |",
        "|---|---|---|---|---|",
    ]
    for label, some in rows.items():
        for clock in ("cpu", "wall"):
            here, there = (sum(kind["sandbox"][where][clock] for kind in some.values()) for where in WHERE)
            lines.append(f"| {label} | {clock} | {here:.2f} | {there:.2f} | {there / here:.2f} |")
    lines += ["\n| media | files, MB | features in the cache, MB |", "|---|---|---|"]
    lines += [f"| {n} | {kind['megabytes']:.0f} | {kind['cache_megabytes']:.0f} |" for n, kind in kinds.items()]
    return "\n".join(lines) + "\n"


def main() -> None:
    """Measures, prints and writes docs/results/media_cache.{md,json}."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.media", description=__doc__)
    for name, count in (("images", 200), ("audios", 100), ("videos", 50)):
        parser.add_argument(f"--{name}", type=int, default=count, help="how many (%(default)s)")
    parser.add_argument("--results", type=Path, default=RESULTS, help="folder of the results")
    settings = parser.parse_args()
    logging.getLogger("transformers").setLevel(logging.ERROR)
    torch.set_num_threads(1)
    machine = machine_facts()
    kinds: dict[str, Any] = {}
    with tempfile.TemporaryDirectory(prefix="omnialign-bench-") as scratch:
        model = build_model(Path(scratch) / "model")
        for name in KINDS:
            if count := getattr(settings, name):
                kinds[name] = compare(model, name, count, Path(scratch) / name)
    settings.results.mkdir(parents=True, exist_ok=True)
    facts = {"machine": machine, "policy": vars(POLICY), "kinds": kinds, "cpu": totals(kinds, "cpu")}
    write(settings.results / "media_cache.json", json.dumps(facts, indent=2) + "\n")
    write(settings.results / "media_cache.md", page(machine, kinds))
    print(page(machine, kinds))


if __name__ == "__main__":
    main()
