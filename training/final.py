"""The finished model: a folder with the trained weights and everything else as the base model has it."""

import json
import shutil
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, Trainer

from omnialign.modeling.codecs.vq_models import DECODER_FOLDER
from training import distributed
from training.files import sync_folder, sync_tree

NOT_COPIED = (".safetensors", ".bin", ".pt", ".pkl", ".pth", ".index.json")
TEMPLATES = "additional_chat_templates"


def save(trainer: Trainer, *, base_dir: Path, to: Path) -> None:
    """Writes the model folder in one move. All ranks take part, because sharded weights must be gathered."""
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    if distributed.rank() == 0:
        model = trainer.accelerator.unwrap_model(trainer.model_wrapped)
        _write(model, state, base_dir=base_dir, final=to)
    distributed.barrier()


def _write(model: PreTrainedModel, state: dict[str, torch.Tensor], *, base_dir: Path, final: Path) -> None:
    staged = final.with_name(f".{final.name}.{uuid.uuid4().hex}")
    wanted = {name: value.to(model.dtype) if value.is_floating_point() else value for name, value in state.items()}
    model.save_pretrained(staged, state_dict=wanted)
    for path in _companions(base_dir, model):
        if path.is_dir():
            shutil.copytree(path, staged / path.name, dirs_exist_ok=True)
        else:
            shutil.copyfile(path, staged / path.name)
    sync_tree(staged)
    shutil.rmtree(final, ignore_errors=True)
    staged.replace(final)
    sync_folder(final.parent)


def _companions(base_dir: Path, model: PreTrainedModel) -> Iterator[Path]:
    """What else makes the base model's folder whole: tokenizer, processor, templates, settings, codecs.

    Its config too, unless it is that of a larger model of which `model` is a part: that one stays behind.
    """
    for path in base_dir.iterdir():
        whole = path.name != "config.json" or _json(path).get("model_type") == model.config.model_type
        if path.is_file() and not path.name.endswith(NOT_COPIED) and whole:
            yield path
    for name in sorted({TEMPLATES, DECODER_FOLDER, *_codec_folders(base_dir / "codecs.json")}):
        if (base_dir / name).is_dir():
            yield base_dir / name


def _codec_folders(path: Path) -> Iterator[str]:
    """The top folders of learned codecs; a codec whose weights are the model's own has none."""
    for entry in _json(path).get("codecs", []) if path.is_file() else []:
        yield from Path(entry.get("options", {}).get("folder", "")).parts[:1]


def _json(path: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(path.read_bytes())
    return found
