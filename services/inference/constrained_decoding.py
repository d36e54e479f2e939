"""Constrained decoding of media: which tokens a row may write next, given the media span it is in.

A medium in the token stream follows a grammar (`MediaSpan`): a begin token, a head, whole units of codes, an end token.
Left alone a model miscounts long spans, and one code too few makes the whole answer unreadable. So inside a span only
the tokens of its grammar may be written, and codes nowhere else. An answer that is cut off inside a span is still
malformed. Ids that stand for the media of a prompt may not be written at all: a trainer could not run such an answer.
Nothing here depends on an engine: it is token ids, logits and torch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from omnialign.modeling.spans import MediaSpan, Slot, slot, union

SPANS_KEY = "omnialign_media_spans"


class SpanState:
    """Where a row is: outside of all spans, or some tokens into one.

    Spans may begin with the same token (an image and a video of Emu3). All of them stay candidates, and the union of
    what they allow may be written, until a token rules some of them out.
    """

    def __init__(self) -> None:
        self.allowed: Slot | None = None
        """What may be written next; None outside of all spans, where everything but codes may."""
        self.num_written = 0
        """Tokens that this state has seen."""
        self._candidates: list[MediaSpan] = []
        self._position = 0  # tokens of the span after its begin token

    @property
    def is_outside(self) -> bool:
        """Whether the row is outside of all spans, so that an answer may end here."""
        return self.allowed is None

    def write(self, token: int, spans: Sequence[MediaSpan]) -> None:
        """Advances by one token."""
        self.num_written += 1
        if self.allowed is None:
            self._candidates, self._position = [span for span in spans if span.begin_id == token], 0
        else:
            ended = any(token == span.end_id for span in self._candidates)
            matching = [span for span in self._candidates if _contains(span.allowed(self._position), token)]
            self._candidates, self._position = [] if ended else matching, self._position + 1
        self.allowed = union([span.allowed(self._position) for span in self._candidates]) if self._candidates else None

    def catch_up(self, written: Sequence[int], spans: Sequence[MediaSpan]) -> None:
        """Advances by the tokens of `written`, all that the row has written, which this state has not seen yet."""
        for token in written[self.num_written :]:
            self.write(token, spans)


class SpanConstraints:
    """The constraints of one model, with a mask per distinct set of allowed tokens, built when first needed.

    A span of thousands of codes has only a handful of such sets, so masks are kept for sets and not for positions.
    `vocabulary_size` is the number of logits per token, and `unwritable` are ids that no answer may hold. For use by
    one thread.
    """

    def __init__(
        self,
        spans: Sequence[MediaSpan],
        *,
        vocabulary_size: int,
        device: torch.device,
        unwritable: Sequence[int] = (),
    ) -> None:
        self.spans = spans
        self._closed = union([*((*span.codes, *slot(span.end_id)) for span in spans), *map(slot, unwritable)])
        self._vocabulary_size, self._device = vocabulary_size, device
        self._mask_index: dict[Slot | None, int] = {}
        self._forbidden = torch.zeros(0, vocabulary_size, dtype=torch.bool, device=device)  # (masks, vocabulary)

    def apply(self, logits: torch.Tensor, states: Sequence[SpanState]) -> torch.Tensor:
        """Logits of shape (rows, vocabulary), minus infinity where a row in its state may not write a token."""
        if not self._closed:
            return logits
        index = torch.tensor([self._index_of(state.allowed) for state in states], device=logits.device)  # (rows,)
        return logits.masked_fill(self._forbidden[index], float("-inf"))

    def _index_of(self, allowed: Slot | None) -> int:
        if allowed not in self._mask_index:
            self._mask_index[allowed] = len(self._mask_index)
            self._forbidden = torch.cat((self._forbidden, self._mask(allowed)[None].to(self._device)))
        return self._mask_index[allowed]

    def _mask(self, allowed: Slot | None) -> torch.Tensor:
        """Shape (vocabulary,), true for every token that may not be written."""
        # Inside a span only the allowed tokens may be written; outside everything may but codes, end tokens, and what
        # stands for media of a prompt.
        is_inside = allowed is not None
        forbidden = torch.full((self._vocabulary_size,), is_inside)
        for ids in allowed if allowed is not None else self._closed:
            forbidden[ids.start : ids.stop] = not is_inside
        return forbidden


def spans_to_config(spans: Sequence[MediaSpan]) -> dict[str, Any]:
    """Spans as JSON can hold them, which is how vLLM carries them to its worker processes (`additional_config`)."""
    return {SPANS_KEY: [_to_json(span) for span in spans]}


def spans_from_config(config: Mapping[str, Any]) -> list[MediaSpan]:
    """The spans that `spans_to_config` wrote."""
    return [_from_json(entry) for entry in config.get(SPANS_KEY, ())]


def _to_json(span: MediaSpan) -> dict[str, Any]:
    slots = {"codes": _ranges(span.codes)}
    lists = {"unit": [_ranges(slot) for slot in span.unit], "head": [_ranges(slot) for slot in span.head]}
    names = ("begin_id", "end_id", "min_units", "max_units")
    return {name: getattr(span, name) for name in names} | slots | lists


def _from_json(entry: Mapping[str, Any]) -> MediaSpan:
    lists = {name: tuple(_slot(slot) for slot in entry[name]) for name in ("unit", "head")}
    return MediaSpan(**{**entry, **lists, "codes": _slot(entry["codes"])})


def _ranges(slot: Slot) -> list[list[int]]:
    return [[ids.start, ids.stop] for ids in slot]


def _slot(ranges: Sequence[Sequence[int]]) -> Slot:
    return tuple(range(start, stop) for start, stop in ranges)


def _contains(allowed: Slot, token: int) -> bool:
    return any(token in ids for ids in allowed)
