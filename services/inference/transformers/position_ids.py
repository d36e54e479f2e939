"""Positions of a batch: counted from each row's first token, or in time, height and width where the model has that.

A model that places media in space keeps the shift between columns and positions of its *last* call in itself, which is
wrong as soon as batches take turns. So both are reckoned here and kept with the batch: the prompt's positions by the
model's own rule, and of each row the position that its next token gets.
"""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import GenerationMixin


def prompt_positions(
    module: Any, ids: torch.Tensor, mask: torch.Tensor, tensors: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """Positions of padded prompts `(rows, columns)`, or `(axes, rows, columns)` for a model with several axes.

    `tensors` are the features of the batch's media.
    """
    rule = getattr(type(module), "_prepare_position_ids_for_generation", None)
    if rule is None or rule is GenerationMixin._prepare_position_ids_for_generation:
        return (mask.cumsum(1) - 1).clamp(min=0)
    positions: torch.Tensor = rule(module, ids, {"attention_mask": mask, **tensors})
    return positions


def next_positions(positions: torch.Tensor) -> torch.Tensor:
    """Where the token after each prompt stands: (rows, 1), or (rows, axes); all but the first axis go on together."""
    last = positions.amax(-1)
    if last.ndim == 1:
        return last[:, None] + 1
    return torch.cat((last[:1], last[1:].amax(0, keepdim=True).expand(last.shape[0] - 1, -1))).T + 1


def step_positions(following: torch.Tensor, step: int) -> torch.Tensor:
    """Positions of one column, `step` tokens after the prompts, in the shape that the model takes: (..., rows, 1)."""
    here = following + step
    return here if here.shape[1] == 1 else here.T[..., None]
