"""Follows what takes long: the events of a job, and calls that tell how far they are and have their result last."""

from __future__ import annotations

import re
from collections.abc import AsyncIterable, Callable
from typing import TYPE_CHECKING, Any, TypeVar

from omnialign.cli.output import Output

if TYPE_CHECKING:
    from rich.console import RenderableType

SECONDS_BETWEEN_SIMILAR_LINES = 10

# An event as a Watch call gives it: a message with `event_time`. The stubs of protobuf have no base class for it.
EventT = TypeVar("EventT", bound=Any)
MessageT = TypeVar("MessageT", bound=Any)


async def follow(
    events: AsyncIterable[EventT],
    *,
    out: Output,
    sentence: Callable[[EventT], str],
    picture: Callable[[EventT], RenderableType],
) -> EventT | None:
    """Shows the events of a job until they end, and returns the last; None if there was none.

    They are a live picture on a terminal, a line each when piped, JSON for machines.
    """
    last = None
    if not out.is_live:
        lines = _Lines(out)
        async for last in events:
            lines.show(last, sentence(last))
        return last
    from rich.live import Live

    with Live(console=out.console, refresh_per_second=4, transient=False) as live:
        async for last in events:
            live.update(picture(last))
    return last


async def last_message(
    messages: AsyncIterable[MessageT],
    *,
    out: Output,
    doing: str,
    text: Callable[[MessageT], str],
    see: Callable[[MessageT], None] = lambda message: None,
) -> MessageT:
    """The last message of a call, which has its result. A line on a terminal shows how far it is, as `text` says.

    `see` is called with every message. Raises DataLoss (`ANSWER_MISSING`) if there is none.
    """
    last = None
    with out.status(doing) as show:
        async for last in messages:
            show(text(last))
            see(last)
    if last is None:
        from omnialign.errors import DataLoss

        raise DataLoss("The service ended the call without a result; run the command again.", reason="ANSWER_MISSING")
    return last


class _Lines:
    """One line per event, as JSON or as a sentence. Sentences that differ only in numbers come every ten seconds."""

    def __init__(self, out: Output) -> None:
        self._out = out
        self._said = ""
        self._said_at = 0

    def show(self, event: Any, sentence: str) -> None:
        """Prints the event."""
        self._out.record(event)
        wording, now = re.sub(r"\d+", "", sentence), event.event_time.seconds
        if wording != self._said or now >= self._said_at + SECONDS_BETWEEN_SIMILAR_LINES:
            self._out.say(f"{event.event_time.ToDatetime():%H:%M:%S} {sentence}")
            self._said, self._said_at = wording, now
