"""Conversations with media, training runs over them, and what a trainer's model says of an answer."""

import json
import os
import subprocess
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from omnialign import media
from omnialign.modeling.adapters import Adapter, load_adapter
from omnialign.modeling.inputs import NO_BOUNDS, MediaBytes, MediaPolicy, Pieces, Turn
from omnialign.v1 import content_pb2
from tests.model_factory.codecs import chameleon_vq, composite, emu3_vq, encodec
from tests.model_factory.families import FAMILIES
from tests.model_factory.family import Family
from training import batches, fused_lm_head, launch, methods, source
from training import media as training_media
from training.example_file import Examples, write_examples
from training.examples import encode_sample
from training.samples import Sample
from training.spec_file import parse_spec
from training.trainers.step_means import answer_log_probs
from training.tuning import load_model

COMPOSITE = (
    {"type": "chameleon_image", "make": chameleon_vq, "options": {"folder": "image_codec", "side_pixels": 16}},
    {"type": "encodec", "make": encodec, "options": {"folder": "audio_codec", "min_frames": 2, "max_frames": 250}},
    {
        "type": "emu3_video",
        "make": emu3_vq,
        "options": {"folder": "video_codec", "side_pixels": 16, "frames_per_second": 4.0, "max_units": 2},
    },
)
EVERYTHING = ("image", "audio", "video")


def make_composite(folder: Path) -> None:
    """A language model with a learned codec of each modality beside it."""
    composite(folder, COMPOSITE, context=8192)


TRAINED: Mapping[str, Family] = {
    **FAMILIES,
    "anygpt": Family("anygpt", EVERYTHING, make_composite, writes=EVERYTHING),
}
"""All families, and a language model with learned codecs beside it."""
MODALITIES = {
    "image": content_pb2.MODALITY_IMAGE,
    "audio": content_pb2.MODALITY_AUDIO,
    "video": content_pb2.MODALITY_VIDEO,
}


def medium(name: str, *, seed: int = 0) -> MediaBytes:
    """A small medium of a modality; another seed gives another one, of another size."""
    draw = np.random.default_rng(seed)
    if name == "image":
        data = media.write_image(draw.integers(0, 256, (56 + 28 * (seed % 3), 84, 3), dtype=np.uint8))
    elif name == "audio":
        seconds = np.arange(int(16000 * (0.6 + 0.2 * (seed % 3)))) / 16000
        data = media.write_audio(np.sin(2 * np.pi * 220 * (1 + seed) * seconds).astype(np.float32) / 2, 16000)
    else:
        data = media.write_video(draw.integers(0, 256, (4 + 2 * (seed % 2), 56, 84, 3), dtype=np.uint8), 2.0)
    return MediaBytes(MODALITIES[name], data)


def question(*pieces: str | MediaBytes) -> tuple[Turn, ...]:
    """A conversation of one question."""
    return (Turn("user", tuple(pieces)),)


def keep(folder: Path, turns: Sequence[Turn]) -> None:
    """Puts the bytes of a conversation's media where a run keeps them."""
    for turn in turns:
        for piece in turn.pieces:
            if isinstance(piece, MediaBytes):
                source.write_cached(training_media.path_of(folder, piece.sha256), piece.data)


def batch(
    adapter: Adapter,
    samples: Sequence[Sample],
    *,
    folder: Path,
    policy: MediaPolicy = NO_BOUNDS,
    fill: Sequence[int] = (),
) -> dict[str, torch.Tensor]:
    """The batch that a trainer makes of samples with one answer (sft) or two (dpo), by way of the file of examples."""
    for sample in samples:
        keep(folder / "media", sample.turns)
    made = [encode_sample(s, adapter=adapter, max_length=10**6, policy=policy) for s in samples]
    write_examples(folder / "examples.arrow", made)
    found = Examples(folder / "examples.arrow")
    fillers = training_media.fillers(adapter, fill)
    side = training_media.BatchMedia(adapter, folder / "media", policy=policy, fillers=fillers)
    if len(found[0].answers) == 1:
        rows = batches.Rows(found, batches.sft_row, blank=None)
        return batches.SftCollator(pad_id=adapter.pad_id, media=side)(list(rows))
    rows = batches.Rows(found, batches.pair_row, blank=None)
    return batches.PairCollator(pad_id=adapter.pad_id, media=side)(list(rows))


def log_probabilities(model: Any, inputs: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """What a trainer's model gives each answer of a batch: summed log-probabilities, (rows,)."""
    if not hasattr(model, "_scores_answers"):
        fused_lm_head.add_head(model.eval())
        model._scores_answers = True
    with torch.no_grad():
        return answer_log_probs(model, inputs).sum(dim=1)


def log_probability(
    model_dir: Path, turns: Sequence[Turn], answer: Pieces, *, folder: Path, policy: MediaPolicy = NO_BOUNDS
) -> float:
    """The summed log-probability of an answer, its end included, under the model as a trainer loads and feeds it.

    `folder` is an empty one to work in.
    """
    adapter = load_adapter(model_dir)
    inputs = batch(adapter, [Sample(tuple(turns), (answer,))], folder=folder, policy=policy)
    return float(log_probabilities(load_model(model_dir), inputs)[0])


def prepare(
    folder: Path, *, base: Path, method: str, samples: Sequence[Sample], num_processes: int = 2, **changes: Any
) -> list[str]:
    """A run with its examples and media in place; returns its command. `changes` go into the hyperparameters.

    But for `zero_stage`, `precision` and `offload`, which go into the distribution, and sections of their own: `lora`,
    that of the method, and the addresses of services.
    """
    distribution = {name: changes.pop(name) for name in ("zero_stage", "precision", "offload") if name in changes}
    own = [name for name in changes if name in ("lora", method) or name.endswith("_address")]
    sections = {name: changes.pop(name) for name in own}
    document = {
        "job": "projects/default/trainingJobs/j",
        "dataset": "projects/default/datasets/d",
        "base_model_dir": str(base),
        "output_dir": str(folder),
        "cache_dir": str(folder / "cache"),
        "hyperparameters": {"batch_size": 2 * num_processes, "learning_rate": 1e-3, "max_length": 4096, **changes},
        "distribution": {"num_processes": num_processes, "zero_stage": 2, **distribution},
        "step_timeout_seconds": 120.0,
        **sections,
    }
    spec = parse_spec(document, method=method)
    adapter = load_adapter(base)
    for sample in samples:
        keep(source.media_folder(spec), sample.turns)
    length = methods.complete(spec, num_processes=num_processes).max_length
    path = source.cache_path(spec, max_length=length)
    write_examples(path, [encode_sample(sample, adapter=adapter, max_length=length) for sample in samples])
    (folder / "job.yaml").write_text(yaml.safe_dump(document))
    return launch.command(method, spec_path=folder / "job.yaml", num_processes=num_processes)


def start(command: Sequence[str]) -> subprocess.Popen[bytes]:
    """Starts a run in a session of its own."""
    environment = launch.environment(os.environ, num_processes=2, num_cpus=2) | {"PYTHONPATH": str(Path.cwd())}
    return subprocess.Popen(command, env=environment, start_new_session=True)


def measures(folder: Path) -> list[dict[str, float]]:
    """What was logged of each step; a later attempt's word on a step replaces the earlier one's."""
    path = folder / "progress.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return list({row["step"]: row for row in map(json.loads, lines)}.values())


def losses(folder: Path) -> dict[int, float]:
    """The loss by step."""
    return {int(row["step"]): row["loss"] for row in measures(folder)}
