"""The finished model: a folder with the trained weights and everything else as the base model has it."""

import shutil
import uuid
from pathlib import Path

import torch
from transformers import PreTrainedModel, Trainer

from training import distributed
from training.files import sync_folder, sync_tree

NOT_COPIED = (".safetensors", ".bin", ".pt", ".pkl", ".pth", ".index.json")


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
    for path in base_dir.iterdir():
        if path.is_file() and not path.name.endswith(NOT_COPIED):
            shutil.copyfile(path, staged / path.name)
    sync_tree(staged)
    shutil.rmtree(final, ignore_errors=True)
    staged.replace(final)
    sync_folder(final.parent)
