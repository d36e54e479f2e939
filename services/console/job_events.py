"""Events of a job for its page, as server-sent events: each brings the parts of the page that may have changed.

A browser that lost the connection connects again and says what it saw last; the watch goes on from there. A page is
told at most twice a second, however fast a job is.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from starlette.requests import Request
from starlette.responses import StreamingResponse

from omnialign.errors import OmnialignError, Unavailable
from services.console.context import Context
from services.console.job_kinds import JobKind
from services.console.job_view import JobView

AT_MOST_EVERY_SECONDS = 0.5
QUIET_SECONDS = 15.0
"""After so long a comment is sent, so that nothing in between takes the connection for dead."""
RECONNECT_SECONDS = 5.0


def event(kind: str, text: str, *, number: int = 0) -> bytes:
    """An event as it is sent. Line breaks of the text become lines of the event, of whatever kind they are."""
    lines = [f"id: {number}"] if number else []
    lines += [f"event: {kind}", *(f"data: {line}" for line in text.splitlines() or [""])]
    return ("\n".join(lines) + "\n\n").encode()


def last_seen(request: Request) -> int:
    """The number of the last event that the browser saw, in this connection or when its page was made; 0 for none."""
    asked = request.headers.get("last-event-id") or request.query_params.get("after", "")
    return int(asked) if asked.isascii() and asked.isdigit() and len(asked) < 19 else 0


def follow(context: Context, request: Request, kind: JobKind, name: str) -> StreamingResponse:
    """The events of a job until it ends, the browser leaves or the console ends."""
    client, after = context.client(request), last_seen(request)
    watch = kind.watch(client, name, resume_after=after, reconnect_seconds=RECONNECT_SECONDS)

    async def parts() -> AsyncIterator[bytes]:
        context.metrics.streams.inc()
        try:
            await kind.get(client, name)  # a watch says nothing until something happens
            yield event("here", "")
            async for found in _newest(watch, context.lifetime.ending):
                if found is None:
                    yield b": still here\n\n"
                    continue
                view = JobView(kind, getattr(found, kind.event_field), getattr(found, "message", ""))
                html = context.pages.text(request, "job_live.html.j2", view=view)
                yield event("part", f"live\n{html}", number=found.sequence)
            if not context.lifetime.ending.is_set():
                yield event("end", "")
        except OmnialignError as error:
            yield event("away", error.message)
            if not isinstance(error, Unavailable):  # else the browser comes again by itself
                yield event("end", "")
        finally:
            context.metrics.streams.dec()

    headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
    return StreamingResponse(parts(), media_type="text/event-stream", headers=headers)


async def _newest(watch: AsyncIterator[Any], ending: asyncio.Event) -> AsyncIterator[Any]:
    """The newest event whenever there is a new one, not too often; None in silence. Ends with the watch, or at the end.

    Raises what the watch raises.
    """
    box: list[Any] = []
    changed = asyncio.Event()

    async def read() -> None:
        try:
            async for found in watch:
                box[:] = [found]
                changed.set()
        finally:
            changed.set()

    reader = asyncio.create_task(read())
    end = asyncio.create_task(ending.wait())
    try:
        while not ending.is_set():
            change = asyncio.create_task(changed.wait())
            await asyncio.wait({change, end}, timeout=QUIET_SECONDS, return_when=asyncio.FIRST_COMPLETED)
            change.cancel()
            is_over = reader.done()
            changed.clear()
            if box:
                yield box.pop()
            elif not is_over and not ending.is_set():
                yield None
            if is_over and not box:
                await reader
                return
            await asyncio.wait({end}, timeout=AT_MOST_EVERY_SECONDS)
    finally:
        end.cancel()
        reader.cancel()
        with contextlib.suppress(asyncio.CancelledError, OmnialignError):
            await reader
