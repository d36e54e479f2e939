"""Well-formed media: what a row may write next, given the media span it is in.

A medium is its begin id, a fixed number of its codec's codes, and its end id. Left alone a model miscounts long spans,
and one code too few makes the whole answer unreadable. So inside a span only what belongs there may be written, and
codes nowhere else. An answer that is cut off inside a span is still malformed.
"""

from collections.abc import Sequence

import torch

from omnialign.modeling.codecs import CodecRange

OUTSIDE = 0


class SpanRules:
    """The rules of one model. State 0 is outside of any span; span i has state 2i + 1 for codes and 2i + 2 for its end.

    `vocabulary` is the number of logits of a token.
    """

    def __init__(self, spans: Sequence[CodecRange], *, vocabulary: int, device: torch.device) -> None:
        self.spans = spans
        self._forbidden = torch.zeros(1 + 2 * len(spans), vocabulary, dtype=torch.bool)
        for index, span in enumerate(spans):
            codes = slice(span.first_id, span.last_id + 1)
            self._forbidden[OUTSIDE, codes] = self._forbidden[OUTSIDE, span.end_id] = True
            self._forbidden[2 * index + 1 : 2 * index + 3] = True
            self._forbidden[2 * index + 1, codes] = self._forbidden[2 * index + 2, span.end_id] = False
        self._forbidden = self._forbidden.to(device)

    def constrain(self, logits: torch.Tensor, places: Sequence["Place"]) -> torch.Tensor:
        """Logits of shape (rows, tokens), minus infinity where a row at its place may not write a token."""
        if not self.spans:
            return logits
        states = torch.tensor([place.state for place in places], device=logits.device)
        return logits.masked_fill(self._forbidden[states], float("-inf"))


class Place:
    """Where a row is: outside of any span, or in one that still lacks some codes."""

    def __init__(self) -> None:
        self.state = OUTSIDE
        self._missing_codes = 0

    def write(self, token: int, spans: Sequence[CodecRange]) -> None:
        """Goes on by one token."""
        if self.state == OUTSIDE:
            self._open(token, spans)
        elif self.state % 2 == 0:
            self.state = OUTSIDE
        else:
            self._missing_codes -= 1
            self.state += self._missing_codes == 0

    def _open(self, token: int, spans: Sequence[CodecRange]) -> None:
        for index, span in enumerate(spans):
            if token == span.begin_id:
                self.state, self._missing_codes = 2 * index + 1, span.codec.num_codes_per_medium
