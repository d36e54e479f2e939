"""Stop strings: whether an answer has reached one, and the answer without it.

Stop strings are searched for in decoded text, within one piece: token boundaries need not match theirs. Adapters trim
the white space at both ends of a text, so a stop string that ends in white space is met only when the next word begins.
A stop string is never part of the answer.
"""

from collections.abc import Sequence

from omnialign.errors import OmnialignError
from omnialign.modeling.adapters import Adapter
from omnialign.modeling.inputs import Pieces
from omnialign.v1 import generation_pb2

MARGIN_IDS = 8
"""Ids decoded beyond the longest stop string: multi-byte characters and special tokens take ids without text."""


def stops_of(sampling: generation_pb2.SamplingParams) -> list[str]:
    """The stop strings of a request; an empty string stops nothing."""
    return [stop for stop in sampling.stop if stop]


def is_met(adapter: Adapter, ids: Sequence[int], stops: Sequence[str]) -> bool:
    """Whether the text of `ids` contains one of `stops`, given that it did not one id ago.

    Decoding the whole answer at every step would cost quadratic time. So the last ids are decoded first: a token has at
    least one byte, hence a stop string that was just completed lies within as many ids as it has bytes. Only when that
    window looks like a stop is the whole answer decoded, to be sure.
    """
    window = max(len(stop.encode()) for stop in stops) + MARGIN_IDS
    if len(ids) > window and not _contains(adapter, ids[-window:], stops, if_malformed=True):
        return False
    return _contains(adapter, ids, stops, if_malformed=False)


def cut(pieces: Pieces, stops: Sequence[str]) -> Pieces:
    """The pieces up to the first of the stop strings."""
    for index, piece in enumerate(pieces):
        if isinstance(piece, str) and (places := [at for stop in stops if (at := piece.find(stop)) >= 0]):
            text = piece[: min(places)].rstrip()
            return (*pieces[:index], text) if text else pieces[:index]
    return pieces


def _contains(adapter: Adapter, ids: Sequence[int], stops: Sequence[str], *, if_malformed: bool) -> bool:
    try:
        pieces = adapter.decode(ids)
    except OmnialignError:  # a media span that the window cuts off, or that is still open
        return if_malformed
    return any(stop in piece for piece in pieces if isinstance(piece, str) for stop in stops)
