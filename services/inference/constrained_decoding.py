"""Well-formed media: what a row may write next, given the media span it is in.

A medium follows its grammar (`MediaSpan`). Left alone a model miscounts long spans, and one code too few makes the
whole answer unreadable. So inside a span only what belongs there may be written, and codes nowhere else. An answer that
is cut off inside a span is still malformed. Nothing here knows an engine: it is ids, logits and torch.


The media spans of a model as plain lists, the form in which vLLM carries them to its worker processes."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from omnialign.modeling.spans import MediaSpan, Slot, slot, union


class Place:
    """Where a row is: outside of any span, or some tokens into one.

    Spans that begin alike (an image and a video of Emu3) stay open together until a token tells them apart.
    """

    def __init__(self) -> None:
        self.allowed: Slot | None = None
        """What may be written next; None outside of any span, where everything but codes may."""
        self.num_written = 0
        """Tokens that this place has seen."""
        self._open: list[MediaSpan] = []
        self._position = 0

    @property
    def outside(self) -> bool:
        """Whether the row is outside of any span, so that an answer may end here."""
        return self.allowed is None

    def write(self, token: int, spans: Sequence[MediaSpan]) -> None:
        """Goes on by one token."""
        self.num_written += 1
        if self.allowed is None:
            self._open, self._position = [span for span in spans if span.begin_id == token], 0
        else:
            ended = any(token == span.end_id for span in self._open)
            alike = [span for span in self._open if _has(span.allowed(self._position), token)]
            self._open, self._position = [] if ended else alike, self._position + 1
        self.allowed = union([span.allowed(self._position) for span in self._open]) if self._open else None

    def follow(self, written: Sequence[int], spans: Sequence[MediaSpan]) -> None:
        """Catches up with all the ids that a row has written so far, for engines that keep the rows themselves."""
        for token in written[self.num_written :]:
            self.write(token, spans)


class SpanRules:
    """The rules of one model, with a mask for each set of tokens that may stand somewhere, made when first needed.

    `vocabulary` is the number of logits of a token. Used by one thread.
    """

    def __init__(self, spans: Sequence[MediaSpan], *, vocabulary: int, device: torch.device) -> None:
        self.spans = spans
        self._codes = union([(*span.codes, *slot(span.end_id)) for span in spans])
        self._vocabulary, self._device = vocabulary, device
        self._rows: dict[Slot | None, int] = {}
        self._forbidden = torch.zeros(0, vocabulary, dtype=torch.bool, device=device)

    def constrain(self, logits: torch.Tensor, places: Sequence[Place]) -> torch.Tensor:
        """Logits of shape (rows, tokens), minus infinity where a row at its place may not write a token."""
        if not self.spans:
            return logits
        rows = torch.tensor([self._row(place.allowed) for place in places], device=logits.device)
        return logits.masked_fill(self._forbidden[rows], float("-inf"))

    def _row(self, allowed: Slot | None) -> int:
        if allowed not in self._rows:
            self._rows[allowed] = len(self._rows)
            self._forbidden = torch.cat((self._forbidden, self._mask(allowed)[None].to(self._device)))
        return self._rows[allowed]

    def _mask(self, allowed: Slot | None) -> torch.Tensor:
        """True for every token that may not be written."""
        inside = allowed is not None
        forbidden = torch.full((self._vocabulary,), inside)
        for ids in allowed if allowed is not None else self._codes:
            forbidden[ids.start : ids.stop] = not inside
        return forbidden


def _has(allowed: Slot, token: int) -> bool:
    return any(token in ids for ids in allowed)


KEY = "omnialign_media_spans"


def span_config(spans: Sequence[MediaSpan]) -> dict[str, Any]:
    """The part of vLLM's `additional_config` that `read_spans` reads; JSON can write it."""
    return {KEY: [_written(span) for span in spans]}


def read_spans(config: Mapping[str, Any]) -> list[MediaSpan]:
    """The spans in vLLM's `additional_config`."""
    return [_read(entry) for entry in config.get(KEY, ())]


def _written(span: MediaSpan) -> dict[str, Any]:
    slots = {"codes": _ranges(span.codes)}
    lists = {"unit": [_ranges(slot) for slot in span.unit], "head": [_ranges(slot) for slot in span.head]}
    names = ("begin_id", "end_id", "min_units", "max_units")
    return {name: getattr(span, name) for name in names} | slots | lists


def _read(entry: Mapping[str, Any]) -> MediaSpan:
    lists = {name: tuple(_slot(slot) for slot in entry[name]) for name in ("unit", "head")}
    return MediaSpan(**{**entry, **lists, "codes": _slot(entry["codes"])})


def _ranges(slot: Slot) -> list[list[int]]:
    return [[ids.start, ids.stop] for ids in slot]


def _slot(ranges: Sequence[Sequence[int]]) -> Slot:
    return tuple(range(start, stop) for start, stop in ranges)
