"""Progress of an answer: what can be read of it while the model writes on.

Ids come after every step and are decoded on the codec threads, the newest ones alone and a few times a second, so that
following an answer costs little however fast or long it is.
"""

import asyncio
from collections.abc import Sequence

from omnialign.errors import OmnialignError
from omnialign.modeling.adapters import Adapter
from omnialign.modeling.inputs import Pieces
from services.inference.codec_pool import CodecPool
from services.inference.engine import EngineRequest
from services.inference.stop_strings import stops_of

INTERVAL_SECONDS = 0.05
UNREADABLE = "\N{REPLACEMENT CHARACTER}"
"""What a tokenizer decodes the first bytes of a character to, until the others are there."""


class Progress:
    """Tells a request's `on_progress` what has been written. For use on one event loop."""

    def __init__(self, codecs: CodecPool, adapter: Adapter, request: EngineRequest) -> None:
        self._codecs, self._adapter, self._on_progress = codecs, adapter, request.on_progress
        self._stops = stops_of(request.sampling)
        self._newest: Sequence[int] | None = None
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def note(self, ids: Sequence[int]) -> None:
        """Takes all ids that were written so far."""
        if self._closed or self._on_progress is None:
            return
        self._newest = ids
        if self._task is None or self._task.done():
            self._task = asyncio.create_task(self._tell())

    def close(self) -> None:
        """Tells nothing from now on."""
        self._closed = True
        if self._task is not None:
            self._task.cancel()

    async def _tell(self) -> None:
        while self._newest is not None:
            ids, self._newest = self._newest, None
            pieces = await self._codecs.decode(self._adapter, ids, stop=self._stops)
            # Ids that end within a medium cannot be decoded until it is complete.
            if not isinstance(pieces, OmnialignError) and self._on_progress is not None:
                self._on_progress(settled(pieces, self._stops))
            await asyncio.sleep(INTERVAL_SECONDS)


def settled(pieces: Pieces, stops: Sequence[str]) -> Pieces:
    """The pieces without the end of the last text that what follows may still change.

    That is a character of which some bytes are missing, and what may be the beginning of a stop string.
    """
    if not pieces or not isinstance(pieces[-1], str):
        return pieces
    text = pieces[-1].rstrip(UNREADABLE)
    begun = max((_overlap(text, stop) for stop in stops), default=0)
    text = text[: len(text) - begun].rstrip()
    return (*pieces[:-1], text) if text else pieces[:-1]


def begins_with(pieces: Pieces, before: Pieces) -> bool:
    """Whether the pieces begin with those before, of which the last may be the beginning of a text."""
    if not before:
        return True
    *first, last = before
    if len(pieces) < len(before) or list(pieces[: len(first)]) != first:
        return False
    here = pieces[len(first)]
    return here.startswith(last) if isinstance(here, str) and isinstance(last, str) else here == last


def _overlap(text: str, stop: str) -> int:
    """Length of the longest end of the text with which the stop string begins."""
    return next((length for length in range(min(len(stop), len(text)), 0, -1) if text.endswith(stop[:length])), 0)
