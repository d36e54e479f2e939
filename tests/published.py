"""Model folders as their publishers wrote them, where this version of transformers writes them otherwise."""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

CLIP_NAMES = {"vision_tower.": "vision_tower.vision_model."}
"""LLaVA's towers were saved with one module more in their names."""


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


def with_talker(folder: Path) -> Path:
    """Makes a thinker's folder that of a whole Omni model: its config within another, and a part that speaks."""
    thinker = json.loads((folder / "config.json").read_text())
    kind = thinker["model_type"].removesuffix("_thinker")
    architecture = thinker["architectures"][0].replace("Thinker", "")
    whole = {"model_type": kind, "architectures": [architecture], "thinker_config": thinker}
    (folder / "config.json").write_text(json.dumps(whole))
    rename(folder, {"": "thinker."}, {"talker.codec_head.weight": torch.zeros(2, 2)})
    return folder
