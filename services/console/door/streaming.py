"""Answers as server-sent events."""

import asyncio
import json
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from services.console.door.disconnects import until_gone
from services.console.door.errors import error_body
from services.runtime.errors import as_omnialign_error

HEADERS = {"Cache-Control": "no-store", "X-Accel-Buffering": "no"}
DONE = b"data: [DONE]\n\n"


class EventStream(Response):
    """Sends events as they come. A caller who hangs up ends the generator. An error is the last event."""

    media_type = "text/event-stream"

    def __init__(self, events: AsyncGenerator[dict[str, Any], None]) -> None:
        super().__init__(headers=HEADERS)
        del self.headers["content-length"]
        self._events = events

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Sends the events."""
        sending, gone = asyncio.create_task(self._send(send)), asyncio.create_task(until_gone(receive))
        try:
            await asyncio.wait((sending, gone), return_when=asyncio.FIRST_COMPLETED)
        finally:
            sending.cancel()
            gone.cancel()
            await asyncio.gather(sending, gone, return_exceptions=True)
            await self._events.aclose()

    async def _send(self, send: Send) -> None:
        await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
        async for chunk in self._chunks():
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _chunks(self) -> AsyncIterator[bytes]:
        try:
            async for event in self._events:
                yield event_bytes(event)
            yield DONE
        except Exception as error:
            yield event_bytes(error_body(as_omnialign_error(error)))


async def resumed(first: Any, rest: AsyncGenerator[Any, None]) -> AsyncGenerator[Any, None]:
    """`first`, which has been taken from `rest` already, and then the rest."""
    try:
        yield first
        async for item in rest:
            yield item
    finally:
        await rest.aclose()


def event_bytes(event: dict[str, Any]) -> bytes:
    """An event on the wire."""
    return b"data: " + json.dumps(event).encode() + b"\n\n"
