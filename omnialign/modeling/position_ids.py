"""Position ids of padded sequences: counted from each row's first token, or by the model's own rule."""

from collections.abc import Mapping
from typing import Any

import torch
from transformers import GenerationMixin


def sequence_positions(
    module: Any, ids: torch.Tensor, mask: torch.Tensor, tensors: Mapping[str, torch.Tensor]
) -> torch.Tensor:
    """Positions of padded sequences, (rows, columns), or (axes, rows, columns) for a model that places media in space.

    `tensors` are the features of the batch's media.
    """
    rule = getattr(type(module), "_prepare_position_ids_for_generation", None)
    if rule is None or rule is GenerationMixin._prepare_position_ids_for_generation:
        return (mask.cumsum(1) - 1).clamp(min=0)  # padding on the left gets 0, and is masked anyway
    positions: torch.Tensor = rule(module, ids, {"attention_mask": mask, **tensors})
    return positions
