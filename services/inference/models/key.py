"""What identifies a model in memory: its name and the type of its weights. And the device that it is put on.

Every engine chooses both in the same way, so that one configuration means the same on all of them.
"""

from dataclasses import dataclass

import torch

from services.inference.config import EngineConfig


@dataclass(frozen=True)
class ModelKey:
    """A resident model: one name in two dtypes is two models."""

    model: str
    dtype: torch.dtype

    @classmethod
    def of(cls, model: str, config: EngineConfig, *, deterministic: bool = False) -> "ModelKey":
        """The key under which an engine of this configuration keeps a model.

        Deterministic requests run in float32: in a shorter type the result of a sum depends visibly on its order, and
        kernels choose that order by the shape of the batch.
        """
        name = "float32" if deterministic else config.dtype
        if name == "auto":
            name = "float32" if pick_device(config.device).type == "cpu" else "bfloat16"
        return cls(model, getattr(torch, name))


def pick_device(name: str) -> torch.device:
    """The device that a configuration names; `auto` takes a GPU if there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)
