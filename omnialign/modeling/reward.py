"""Reward models: r(x, y) = w · h, with h the backbone's hidden state at the last token of the response.

In a causal model that token, the end token, is the only one that has seen the whole response. It is given by its
place and never taken to be the last one: rows are padded on the right, and a filler medium may follow a response.

The head is added to the language model that it was trained from (`add_head`), for engine and trainer alike.
"""

import types
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from omnialign.modeling.reward_folder import HEAD, WEIGHT, head_invalid, head_size


class RewardHead(torch.nn.Module):
    """A vector w of shape (1, hidden)."""

    def __init__(self, weight: torch.Tensor) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(weight.float())

    def forward(self, hidden: torch.Tensor) -> torch.Tensor:
        """The rewards (rows,) of hidden states (rows, hidden)."""
        # Not a linear layer, which autocast would compute in bfloat16: two or three digits are too few for a reward.
        return (hidden.float() * self.weight).sum(-1)


def new_head(hidden_size: int, *, seed: int) -> RewardHead:
    """A head drawn from N(0, 1 / (hidden + 1)) (Stiennon et al. 2020), the same on every rank."""
    generator = torch.Generator().manual_seed(seed % 2**63)
    return RewardHead(torch.randn(1, hidden_size, generator=generator) / (hidden_size + 1) ** 0.5)


def load_head(folder: Path, *, hidden_size: int) -> RewardHead:
    """The head of a reward model's folder. Raises InvalidArgument REWARD_HEAD_INVALID, MODEL_WEIGHTS_INVALID."""
    if (found := head_size(folder)) != hidden_size:
        raise head_invalid(folder.name, f"is for hidden states of {found} numbers where config.json says {hidden_size}")
    return RewardHead(load_file(folder / HEAD)[WEIGHT])


def save_head(weight: torch.Tensor, folder: Path) -> None:
    """Makes the folder of a language model that of a reward model."""
    save_file({WEIGHT: weight.detach().float().cpu().contiguous()}, folder / HEAD)


def hidden_size(model: Any) -> int:
    """Width of a model's last hidden states."""
    return int(model.config.get_text_config(decoder=True).hidden_size)


def add_head(model: Any, head: RewardHead) -> None:
    """Makes `model(**inputs, reward_at=places)` return the rewards (rows,), with the head as `model.score`.

    `places` (rows,) says where each row's last response token stands in the batch, counted row after row. Without it,
    the model is as before.
    """
    model.score = head.to(model.device)
    forward = model.forward

    def rewarded(self: Any, *args: Any, reward_at: torch.Tensor | None = None, **inputs: Any) -> Any:
        if reward_at is None:
            return forward(*args, **inputs)
        states = last_hidden_states(self, **inputs)  # (rows, columns, hidden)
        return self.score(states.flatten(0, 1)[reward_at])

    model.forward = types.MethodType(rewarded, model)


def last_hidden_states(model: Any, **inputs: torch.Tensor) -> torch.Tensor:
    """What the language-model head would read: (rows, columns, hidden)."""
    if (embed := getattr(model, "embed_with_codes", None)) is not None:  # Janus, whose codes have a table of their own
        inputs["inputs_embeds"] = embed(inputs.pop("input_ids"), inputs.pop("pixel_values", None))
    return torch.as_tensor(model.base_model(**inputs, use_cache=False).last_hidden_state)
