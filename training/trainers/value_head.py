"""The value head of PPO: a scalar on the policy's own backbone, read before each token of an answer."""

import types
from typing import Any

import torch
from transformers import PreTrainedModel

from omnialign.modeling.reward import RewardHead, hidden_size

NAME = "value_head"


def add_value_head(model: PreTrainedModel) -> None:
    """Makes `model(..., with_values=True)` return log-probabilities and values, (rows, columns - 1) each.

    V at a position is what is expected of the answer from the token on that is predicted there; of a prompt it may be
    given as zero. The head begins at zero. `model` must have the fused head of `training.fused_lm_head`.
    """
    setattr(model, NAME, RewardHead(torch.zeros(1, hidden_size(model))).to(model.device))
    forward = model.forward

    def valued(self: Any, *args: Any, with_values: bool = False, **kwargs: Any) -> Any:
        if not with_values:
            return forward(*args, **kwargs)
        kept: list[torch.Tensor] = []
        hook = self.base_model.register_forward_hook(lambda *call: kept.append(call[-1].last_hidden_state))
        try:
            scored = forward(*args, **kwargs)
        finally:
            hook.remove()
        values = getattr(self, NAME)(kept[-1])  # (rows, columns), or (1, T) of a packed row
        packing = getattr(scored, "packing", None)
        return scored.log_probs, packing.unpack(values) if packing else values[:, :-1]

    model.forward = types.MethodType(valued, model)
