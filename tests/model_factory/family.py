"""A model family, and how the folder of a tiny model of it is written: as its publisher would have written it.

Newer versions of transformers save some weights under names that published checkpoints do not have; `rename` undoes it.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import PreTrainedTokenizerBase

import omnialign  # noqa: F401  makes torchvision importable for the video processors

TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "initializer_range": 0.2,
}
"""Sizes of every language model; heads of 32, the smallest that the engines' attention kernels support."""


@dataclass(frozen=True)
class Family:
    """One model family. `reads` and `writes` are its modalities beside text; `vllm` says whether vLLM runs it."""

    name: str
    reads: tuple[str, ...]
    make: Callable[[Path], None]
    writes: tuple[str, ...] = ()
    vllm: bool = True

    def build(self, folder: Path) -> Path:
        """Writes a model, with the same random weights each time: config, weights, tokenizer, processor, template."""
        folder.mkdir(parents=True, exist_ok=True)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(7)
            self.make(folder)
        return folder


def save(folder: Path, model: Any, processor: Any, tokenizer: PreTrainedTokenizerBase, ends: Sequence[str]) -> None:
    """Writes a folder as it is published: weights, generation config with all end ids, processor and template."""
    end_ids = tokenizer.convert_tokens_to_ids(list(ends))
    model.generation_config.eos_token_id = end_ids if len(end_ids) > 1 else end_ids[0]
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    model.generation_config.bos_token_id = tokenizer.bos_token_id
    model.save_pretrained(folder)
    processor.save_pretrained(folder)


CLIP_NAMES = {"vision_tower.": "vision_tower.vision_model."}
"""The names of LLaVA's towers were published with one more module."""


def rename(folder: Path, prefixes: Mapping[str, str], more: Mapping[str, torch.Tensor] | None = None) -> None:
    """Gives the weights of a folder their published names, by prefixes, and adds further ones."""
    path = folder / "model.safetensors"
    with safe_open(path, "pt") as file:
        metadata = file.metadata()
    weights = {}
    for name, tensor in load_file(path).items():
        old = next((prefix for prefix in prefixes if name.startswith(prefix)), "")
        weights[prefixes.get(old, old) + name.removeprefix(old)] = tensor
    save_file({**weights, **(more or {})}, path, metadata=metadata)


def add_talker(folder: Path) -> Path:
    """Turns a thinker's folder into that of a whole Omni model: its config nested in another, and a talker."""
    thinker = json.loads((folder / "config.json").read_text())
    kind = thinker["model_type"].removesuffix("_thinker")
    architecture = thinker["architectures"][0].replace("Thinker", "")
    whole = {"model_type": kind, "architectures": [architecture], "thinker_config": thinker}
    (folder / "config.json").write_text(json.dumps(whole))
    rename(folder, {"": "thinker."}, {"talker.codec_head.weight": torch.zeros(2, 2)})
    return folder
