"""Packing: a padded batch runs as one row of its real tokens, and a prompt that rows share runs once, with its media.

A batch is packed where a trainer asks for log-probabilities or rewards, so that what comes before (collators) and after
(losses) sees rows as ever. In the packed row each sequence is a segment: its positions start anew, and its tokens see
no other segment. Rows share a prompt x of p tokens if it has the same tokens, at the same positions, and the same
media. It becomes one segment without its last token, and that token begins every branch,

    x_1 .. x_{p-1} | x_p chosen | x_p rejected,

each of which sees the shared segment and itself: the last token of x predicts the first of either answer. The model is
given the media of a shared prompt once, so its towers run once for them. Positions are those of the padded rows, by the
model's own rule, in all axes that it places media in. Loss and gradient are those of the padded batch.

Attention runs segment by segment, so that it costs what the sequences alone cost, and no mask over the whole row is
made. A model that needs more than that stays padded, for the reason that `Obstacle` names; so does a batch with rows
longer than a sliding window. Flash attention has its own way with unpadded rows.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from enum import Enum
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import causal_mask_function, sdpa_mask

from omnialign.modeling.position_ids import sequence_positions
from training.media import MediaRows

NAME = "packed_sdpa"
"""The attention of a model that packs; without an active packing it is `sdpa`."""
IGNORED = -100
"""The label that no loss falls on."""
PLACEHOLDERS = tuple(f"{kind}_token_{word}" for kind in ("image", "video", "audio") for word in ("id", "index"))
"""What a configuration may call the tokens that features replace."""
WHOLE_OR_WINDOW = frozenset({"full_attention", "sliding_attention"})
"""Layers that attend to all that is before, or to as much of it as their window holds."""


class Obstacle(Enum):
    """Why a model's rows stay padded."""

    OWN_LOGITS = "its logits are not one projection of its last states"
    OTHER_LAYERS = "not all its layers are plain attention"
    CROSS_ATTENTION = "it looks at media by attention of another kind"
    NOT_SDPA = "its attention is not SDPA"
    OWN_MASK = "its tokens see some that come later"


class OwnMask(Exception):
    """A model asks for a mask that is not causal."""


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
    guests: frozenset[int]
    """The rows whose prompt is run as part of another row."""
    shape: torch.Size

    @classmethod
    def of(
        cls, tokens: torch.Tensor, mask: torch.Tensor, labels: torch.Tensor, *, media: Sequence[int] | None
    ) -> "Packing":
        """The packing of a batch, of which `mask` and `labels` are (rows, columns).

        Rows share a prompt if all that `tokens`, (kinds, rows, columns), says of it is the same, and so are their
        numbers in `media`, (rows,). Without `media` they share nothing.
        """
        rows, columns = mask.shape
        # Each token's label is the token in the next column.
        following = torch.cat([labels[:, 1:], labels.new_full((rows, 1), IGNORED)], dim=1).flatten()
        lengths = mask.sum(1).tolist()
        prompts: list[int] = (mask * (labels == IGNORED).cumprod(1)).sum(1).tolist()  # tokens up to the first label
        hosts = list(range(rows)) if media is None else _hosts(tokens, prompts, media)
        sharing, prefixes = Counter(hosts), dict[int, int]()
        pieces, segments = list[torch.Tensor](), list[Segment]()

        def add(row: int, start: int, stop: int, prefix: int | None = None) -> None:
            pieces.append(torch.arange(row * columns + start, row * columns + stop, device=mask.device))
            segments.append(Segment(stop - start, prefix))

        for row, host in enumerate(hosts):
            if sharing[host] == 1:
                add(row, 0, lengths[row])
                continue
            branch = prompts[row] - 1
            if row == host:
                prefixes[row] = len(segments)
                add(row, 0, branch)
            add(row, branch, lengths[row], prefixes[host])
        source = torch.cat(pieces)
        guests = frozenset(row for row, host in enumerate(hosts) if row != host)
        return cls(source, following[source], tuple(segments), guests, mask.shape)

    def find(self, places: torch.Tensor) -> torch.Tensor:
        """Where tokens stand in the packed row, from their places in the batch, of any shape."""
        found = torch.zeros(self.shape.numel(), dtype=torch.long, device=places.device)
        found[self.source] = torch.arange(len(self.source), device=places.device)
        return found[places]

    def unpack(self, values: torch.Tensor) -> torch.Tensor:
        """From one value per token of the packed row, (1, T), to (rows, columns - 1); zero where there is no label."""
        padded = values.new_zeros(self.shape.numel())
        # No place is filled twice: the tokens of a shared prompt are those of the first row that has it.
        padded = padded.index_put((self.source,), values[0].masked_fill(self.labels == IGNORED, 0))
        return padded.view(self.shape)[:, :-1]


def _hosts(tokens: torch.Tensor, prompts: Sequence[int], media: Sequence[int]) -> list[int]:
    """For each row the first one with its prompt; the row itself if there is none before, or nothing to share."""
    known, first = tokens.cpu().numpy(), dict[tuple[int, bytes], int]()
    return [
        first.setdefault((media[row], known[:, row, :size].tobytes()), row) if size > 1 else row
        for row, size in enumerate(prompts)
    ]


_active: Packing | None = None
"""The packing of the forward pass at hand."""
_last: Packing | None = None
"""That of the last one, for a backward pass that computes layers again."""


def enable(model: PreTrainedModel) -> Obstacle | None:
    """Lets a model run packed rows; if one cannot, changes nothing and says why."""
    obstacle = _obstacle(model)
    if obstacle is None:
        model.config.get_text_config(decoder=True)._attn_implementation = NAME
    return obstacle


def _obstacle(model: PreTrainedModel) -> Obstacle | None:
    config, decoder = model.config.get_text_config(decoder=True), model.get_decoder()
    if set(getattr(config, "layer_types", None) or ()) - WHOLE_OR_WINDOW or decoder._is_stateful:
        return Obstacle.OTHER_LAYERS
    if getattr(config, "cross_attention_layers", None) or model.config.is_encoder_decoder:
        return Obstacle.CROSS_ATTENTION
    is_sdpa = decoder._supports_attention_backend and config._attn_implementation == "sdpa"
    return None if is_sdpa else Obstacle.NOT_SDPA


def fits(model: PreTrainedModel, mask: torch.Tensor) -> bool:
    """Whether rows with this mask, (rows, columns), are padded on the right and no longer than a model's window."""
    config = model.config.get_text_config(decoder=True)
    is_windowed = getattr(config, "use_sliding_window", True)
    window = getattr(config, "sliding_window", None) if is_windowed else None
    return mask.shape[1] <= (window or mask.shape[1]) and is_padded_right(mask)


def is_padded_right(mask: torch.Tensor) -> bool:
    """Whether every row of a mask, (rows, columns), is ones and then zeros."""
    return bool((mask[:, 1:] <= mask[:, :-1]).all())


@contextmanager
def packed(packing: Packing) -> Iterator[None]:
    """Within the block, a model that packs runs rows of this packing and no others."""
    global _active, _last
    _active = _last = packing
    try:
        yield
    finally:
        _active = None


def pack(
    model: Any, batch: Mapping[str, torch.Tensor], labels: torch.Tensor, media: MediaRows | None
) -> tuple[Packing, dict[str, Any]]:
    """The packing of a padded batch, and what a model takes in its place; without `media`, features are not shared."""
    ids, mask = batch["input_ids"], batch["attention_mask"]
    features = {name: value for name, value in batch.items() if name not in ("input_ids", "attention_mask")}
    owners: Mapping[str, Sequence[int]] = media.owners if media else {}
    positions = sequence_positions(model, ids, mask, features)  # ([axes,] rows, columns)
    told = {name: value for name, value in features.items() if name not in owners and value.shape == ids.shape}
    by_token = {"input_ids": ids, **told}
    packing = Packing.of(
        torch.stack([*by_token.values(), *positions.reshape(-1, *ids.shape)]),
        mask,
        labels,
        media=_shareable(model, ids, labels, media) if media or not features else None,
    )
    # Media come in the order of the rows, as their tokens do; what is said of each token is packed like the ids.
    kept = {name: _without(packing.guests, value, owners.get(name)) for name, value in features.items()}
    return packing, {
        **kept,
        **{name: value.flatten()[packing.source][None] for name, value in by_token.items()},
        "position_ids": positions.flatten(-2)[..., packing.source].unsqueeze(-2),
        "attention_mask": None,
    }


def _shareable(model: Any, ids: torch.Tensor, labels: torch.Tensor, media: MediaRows | None) -> Sequence[int]:
    """Numbers of the rows' media, in which a row that must have its own differs from all others."""
    if media is None:
        return [0] * len(ids)
    found = (getattr(model.config, name, None) for name in PLACEHOLDERS)
    placeholders = torch.tensor([token for token in found if token is not None], dtype=ids.dtype, device=ids.device)
    # The last token of a prompt begins every branch, where the media are not.
    is_last = (labels[:, 1:] != IGNORED) & (labels[:, :-1] == IGNORED)
    is_torn = (torch.isin(ids[:, :-1], placeholders) & is_last).any(1).tolist()
    return [-1 - row if torn else number for row, (number, torn) in enumerate(zip(media.same, is_torn, strict=True))]


def _without(rows: frozenset[int], items: torch.Tensor, owners: Sequence[int] | None) -> torch.Tensor:
    """The items of a feature but for those of `rows`."""
    if not rows or owners is None:
        return items
    return items[[at for at, owner in enumerate(owners) if owner not in rows]]


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
    if _active is None:
        padded: torch.Tensor | None = sdpa_mask(*args, **kwargs)
        return padded
    _require_causal(kwargs["mask_function"], kwargs["q_length"], kwargs["device"])
    return None


def _require_causal(sees: Callable[..., torch.Tensor], tokens: int, device: torch.device) -> None:
    """Raises `OwnMask` if any token of a row sees the next one."""
    if sees is causal_mask_function or tokens < 2:
        return
    zero, at = torch.zeros((), dtype=torch.long, device=device), torch.arange(tokens - 1, device=device)
    if bool(sees(zero, zero, at, at + 1).any()):
        raise OwnMask


AttentionInterface.register(NAME, packed_attention)
AttentionMaskInterface.register(NAME, _mask)
