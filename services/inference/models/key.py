"""What identifies a model in memory: its name, the type of its weights, and the device that it runs on."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class ModelKey:
    """A model as it is resident: the same name in two dtypes is two models."""

    model: str
    dtype: torch.dtype


def pick_device(name: str) -> str:
    """The device of a configuration: `auto` takes a GPU if there is one."""
    return name if name != "auto" else "cuda" if torch.cuda.is_available() else "cpu"
