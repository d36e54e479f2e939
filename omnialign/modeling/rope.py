"""Where the text after a video stands, in models that place media in time, height and width.

The models were trained with whatever follows a medium one after its highest position, time included (Qwen2-VL paper,
section 2.1), and vLLM serves them so. `transformers` 5.3 and later count height and width alone: the words after a long
video then stand within it, and elsewhere than where they were trained to stand.
"""

import functools
import importlib
import itertools
from collections.abc import Callable
from typing import Any

import torch

MODELS = {"qwen2_vl": "Qwen2VLModel", "qwen2_5_vl": "Qwen2_5_VLModel"}
"""Classes with that rule, by `model_type`."""


def mend_positions(model_type: str) -> None:
    """Has the models of a type place what follows a medium after all of it, in this process."""
    if model_type not in MODELS:
        return
    module = importlib.import_module(f"transformers.models.{model_type}.modeling_{model_type}")
    kind = getattr(module, MODELS[model_type])
    if not hasattr(kind.get_rope_index, "__wrapped__"):
        kind.get_rope_index = following(kind.get_rope_index)


def following(rule: Callable[..., tuple[torch.Tensor, torch.Tensor]]) -> Callable[..., Any]:
    """A `get_rope_index` that moves each group of `rule` to one after the highest position of the group before it."""

    @functools.wraps(rule)
    def mended(
        self: Any,
        input_ids: torch.Tensor,
        mm_token_type_ids: torch.Tensor,
        *args: Any,
        attention_mask: torch.Tensor | None = None,
        **kwargs: Any,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        found, _ = rule(self, input_ids, mm_token_type_ids, *args, attention_mask=attention_mask, **kwargs)
        positions = found.clone()
        deltas = []
        for row, types in enumerate(mm_token_type_ids):
            columns = _columns(types, None if attention_mask is None else attention_mask[row])
            positions[:, row, columns] = moved(positions[:, row, columns], types[columns].tolist())
            deltas.append(positions[:, row, columns].max() + 1 - len(columns))
        return positions, torch.stack(deltas)[:, None]

    return mended


def moved(positions: torch.Tensor, types: list[int]) -> torch.Tensor:
    """Positions (axes, tokens) with every run of one type starting after the run before; the first stays."""
    found, first = positions.clone(), 0
    for _, run in itertools.groupby(types):
        last = first + len(list(run))
        if first:
            found[:, first:last] += found[:, :first].max() + 1 - found[0, first]
        first = last
    return found


def _columns(types: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Columns of a row that hold tokens, not padding."""
    return torch.arange(len(types), device=types.device) if mask is None else mask.bool().nonzero()[:, 0]
