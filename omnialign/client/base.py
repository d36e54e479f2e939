"""What the parts of the client share: the transport, the project, pages, and watching."""

import asyncio
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

from omnialign.client.retry import backoff_seconds
from omnialign.client.transport import Transport
from omnialign.errors import OmnialignError, Unavailable

DEFAULT_DEADLINE_SECONDS = 30.0
LIST_PAGE_SIZE = 200
RECONNECT_SECONDS = 120.0


class Calls:
    """Base of the groups of calls that make up a client."""

    def __init__(self, transport: Transport, *, project: str) -> None:
        self._transport = transport
        self.project = project

    @property
    def parent(self) -> str:
        """`projects/{project}`: the parent of everything made here."""
        return f"projects/{self.project}"

    async def _pages(self, method: Callable[..., Awaitable[Any]], request: Any, *, items: str) -> AsyncIterator[Any]:
        """All items of a list, page by page; `items` is the field of the answer that holds them."""
        while True:
            answer = await self._transport.unary(method, request)
            for item in getattr(answer, items):
                yield item
            if not answer.next_page_token:
                return
            request.page_token = answer.next_page_token

    async def _watch(
        self,
        method: Callable[..., Any],
        request: Any,
        *,
        ended: Callable[[Any], bool],
        reconnect_seconds: float = RECONNECT_SECONDS,
    ) -> AsyncIterator[Any]:
        """Events from `request.resume_after` on, until one of which `ended` is true.

        A stream that breaks or ends early is opened again after the last event seen, so none is lost or repeated.
        One that the service ends without an event had none left: the job had ended before. Raises Unavailable when
        reconnecting does not succeed for `reconnect_seconds`.
        """
        attempt, last_event = 1, time.monotonic()
        while True:
            failure: OmnialignError | None = None
            opened_after = request.resume_after
            try:
                async for event in self._transport.stream(method, request, idempotent=False):
                    attempt, last_event = 1, time.monotonic()
                    request.resume_after = event.sequence
                    yield event
                    if ended(event):
                        return
                    last_event = time.monotonic()
            except Unavailable as error:
                failure = error
            if failure is None and request.resume_after == opened_after:
                return
            if time.monotonic() - last_event > reconnect_seconds:
                raise failure or Unavailable(f"The watch of '{request.name}' kept ending", reason="WATCH_ENDED")
            await asyncio.sleep(backoff_seconds(attempt))
            attempt += 1
