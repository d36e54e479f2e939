"""Packing: a padded batch runs as one row of its real tokens, and a prompt that the rows of a pair share runs once.

A batch is packed where a trainer asks for log-probabilities, so that what comes before (collators) and after (losses)
sees rows as ever. In the packed row each sequence is a segment: its positions start anew, and its tokens see no other
segment. Rows of a pair share a prompt x of p tokens. It becomes one segment without its last token, and that token
begins both branches,

    x_1 .. x_{p-1} | x_p chosen | x_p rejected,

each of which sees the shared segment and itself: the last token of x predicts the first of either answer. Loss and
gradient are those of the padded batch.

Attention runs segment by segment, so that it costs what the sequences alone cost, and no mask over the whole row is
made. Flash attention has its own way with unpadded rows; a model that runs with it stays padded here.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from omnialign.modeling.position_ids import sequence_positions

NAME = "packed_sdpa"
"""The attention of a model that packs; without an active packing it is `sdpa`."""
IGNORED = -100
"""The label that no loss falls on."""


@dataclass(frozen=True)
class Segment:
    """Neighbouring tokens of a packed row, which see themselves causally and all of another segment, if any."""

    size: int
    prefix: int | None = None
    """Index of the segment that is seen as a whole."""


@dataclass(frozen=True)
class Packing:
    """How a batch of (rows, columns), padded on the right, becomes one row of T tokens."""

    source: torch.Tensor
    """(T,): the place of each token in the batch, rows one after the other."""
    labels: torch.Tensor
    """(T,): the token that follows each, or IGNORED."""
    segments: tuple[Segment, ...]
    shape: torch.Size

    @classmethod
    def of(cls, ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor, *, share: bool) -> "Packing":
        """The packing of a batch; with `share`, rows i and i + rows / 2 that begin with one prompt run it once."""
        rows, columns = ids.shape
        # Each token's label is the token in the next column.
        following = torch.cat([labels[:, 1:], labels.new_full((rows, 1), IGNORED)], dim=1).flatten()
        lengths = mask.sum(1).tolist()
        half = rows // 2 if share and rows % 2 == 0 else 0
        shared = _shared_tokens(ids[: 2 * half], mask[: 2 * half], labels[: 2 * half])
        pieces, segments = list[torch.Tensor](), list[Segment]()

        def add(row: int, start: int, stop: int, prefix: int | None = None) -> None:
            pieces.append(torch.arange(row * columns + start, row * columns + stop, device=ids.device))
            segments.append(Segment(stop - start, prefix))

        for row in range(rows - half):
            branches = (row, row + half) if row < half else (row,)
            start = shared[row] if row < half else 0
            prompt = len(segments) if start else None
            if start:
                add(row, 0, start)
            for branch in branches:
                add(branch, start, lengths[branch], prompt)
        source = torch.cat(pieces)
        return cls(source, following[source], tuple(segments), ids.shape)

    def unpack(self, values: torch.Tensor) -> torch.Tensor:
        """From one value per token of the packed row, (1, T), to (rows, columns - 1); zero where there is no label."""
        padded = values.new_zeros(self.shape.numel())
        # No place is filled twice: the tokens of a shared prompt are those of the first row of its pair.
        padded = padded.index_put((self.source,), values[0].masked_fill(self.labels == IGNORED, 0))
        return padded.view(self.shape)[:, :-1]


def _shared_tokens(ids: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor) -> list[int]:
    """How many tokens the two rows of each pair share, the last of the prompt left out; 0 for different prompts."""
    if not len(ids):
        return []
    first, second = ids.chunk(2)
    is_prompt = mask * (labels == IGNORED).cumprod(1)  # 1 up to a row's first label
    prompts, others = is_prompt.sum(1).chunk(2)  # (pairs,) each
    differs = ((first != second) & (is_prompt.chunk(2)[0] == 1)).any(1) | (prompts != others)
    shared: list[int] = (prompts - 1).clamp(min=0).masked_fill(differs, 0).tolist()
    return shared


_active: Packing | None = None
"""The packing of the forward pass at hand."""
_last: Packing | None = None
"""That of the last one, for a backward pass that computes layers again."""


def enable(model: PreTrainedModel) -> bool:
    """Lets a model run packed rows; False, and no change, for a model whose layers are not all plain attention."""
    config = model.config.get_text_config(decoder=True)
    layers = getattr(config, "layer_types", None) or ["full_attention"]
    window = getattr(config, "sliding_window", None) if getattr(config, "use_sliding_window", True) else None
    plain = set(layers) == {"full_attention"} and not window
    if not plain or not model._supports_attention_backend or config._attn_implementation != "sdpa":
        return False
    config._attn_implementation = NAME
    return True


def is_padded_right(mask: torch.Tensor) -> bool:
    """Whether every row of a mask, (rows, columns), is ones and then zeros."""
    return bool((mask[:, 1:] <= mask[:, :-1]).all())


def may_share(batch: Mapping[str, torch.Tensor]) -> bool:
    """Whether rows may share a prompt: their features, if there are any, are given once for each row."""
    return batch.keys() <= {"input_ids", "attention_mask"}


@contextmanager
def packed(packing: Packing) -> Iterator[None]:
    """Within the block, a model that packs runs rows of this packing and no others."""
    global _active, _last
    _active = _last = packing
    try:
        yield
    finally:
        _active = None


def packed_inputs(model: Any, packing: Packing, inputs: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """What a model takes in place of a padded batch."""
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    features = {name: value for name, value in inputs.items() if name not in ("input_ids", "attention_mask")}
    positions = sequence_positions(model, ids, mask, features)  # ([axes,] rows, columns)
    # Media come in the order of the rows, as their tokens do; what is said of each token is packed like the ids.
    by_token = {name: value for name, value in features.items() if value.shape == ids.shape} | {"input_ids": ids}
    return {
        **features,
        **{name: value.flatten()[packing.source][None] for name, value in by_token.items()},
        "position_ids": positions.flatten(-2)[..., packing.source].unsqueeze(-2),
    }


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attention over the segments of the packing in force; query, key and value are (1, heads, T, width)."""
    packing = _in_force(query)
    if packing is None:
        padded: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout, scaling, **kwargs
        )
        return padded
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = (repeat_kv(key, groups), repeat_kv(value, groups)) if groups > 1 else (key, value)
    # Split at once: the gradient of each slice by itself would be as long as the whole row.
    sizes = [segment.size for segment in packing.segments]
    queries, keys, values = (states.split(sizes, dim=2) for states in (query, key, value))
    found = []
    for segment, q, k, v in zip(packing.segments, queries, keys, values, strict=True):
        seen: torch.Tensor | None = None  # (queries, keys); None is the causal mask
        if segment.prefix is not None:
            k, v = torch.cat([keys[segment.prefix], k], dim=2), torch.cat([values[segment.prefix], v], dim=2)
            seen = torch.ones(q.shape[2], k.shape[2], dtype=torch.bool, device=q.device)
            seen = seen.tril(k.shape[2] - q.shape[2])
        attended = scaled_dot_product_attention(
            q, k, v, attn_mask=seen, is_causal=seen is None, dropout_p=dropout, scale=scaling
        )
        found.append(attended)
    return torch.cat(found, dim=2).transpose(1, 2).contiguous(), None


def _in_force(query: torch.Tensor) -> Packing | None:
    if _active is not None:
        return _active
    is_backward = torch._C._current_graph_task_id() != -1
    fits = _last is not None and query.shape[::2] == (1, len(_last.source))
    return _last if is_backward and fits else None


def _mask(*args: Any, **kwargs: Any) -> torch.Tensor | None:
    return None if _active is not None else sdpa_mask(*args, **kwargs)


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, _mask)
