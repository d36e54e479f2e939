"""Stop texts: whether an answer has met one, and the answer without it.

Stops are looked for in the text that the adapter decodes, within one piece. Only the end of the answer is decoded at
each step, and the whole of it once that looks like a stop. Adapters trim the white space at the ends of a text, so a
stop that ends in white space is met when the next word begins; it is not part of the answer either way.
"""

from collections.abc import Sequence

from omnialign.errors import OmnialignError
from omnialign.modeling.adapters import Adapter
from omnialign.modeling.inputs import Pieces

MARGIN_IDS = 8


def stop_met(adapter: Adapter, ids: Sequence[int], stops: Sequence[str]) -> bool:
    """Whether the text of `ids` holds one of `stops`, given that it did not one id ago."""
    window = max(len(stop.encode()) for stop in stops) + MARGIN_IDS
    if len(ids) > window and not _holds(adapter, ids[-window:], stops, if_malformed=True):
        return False
    return _holds(adapter, ids, stops, if_malformed=False)


def cut(pieces: Pieces, stops: Sequence[str]) -> Pieces:
    """The pieces up to the first of the stops."""
    for index, piece in enumerate(pieces):
        if isinstance(piece, str) and (places := [at for stop in stops if (at := piece.find(stop)) >= 0]):
            text = piece[: min(places)].rstrip()
            return (*pieces[:index], text) if text else pieces[:index]
    return pieces


def _holds(adapter: Adapter, ids: Sequence[int], stops: Sequence[str], *, if_malformed: bool) -> bool:
    try:
        pieces = adapter.decode(ids)
    except OmnialignError:  # a media span that is still open
        return if_malformed
    return any(stop in piece for piece in pieces if isinstance(piece, str) for stop in stops)
