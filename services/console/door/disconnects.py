"""Callers that hang up: what was being done for them ends at once."""

import asyncio
from collections.abc import Awaitable
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.types import Receive

from omnialign.errors import Cancelled

T = TypeVar("T")


async def while_connected(request: Request, work: Awaitable[T]) -> T:
    """The result of `work`, which is cancelled when the caller hangs up. To be called once the body has been read.

    Raises Cancelled CALLER_GONE, which nobody will read.
    """
    task, gone = asyncio.ensure_future(work), asyncio.create_task(until_gone(request.receive))
    try:
        await asyncio.wait((task, gone), return_when=asyncio.FIRST_COMPLETED)
        if not task.done():
            raise Cancelled("The caller hung up before the answer.", reason="CALLER_GONE")
        return task.result()
    finally:
        task.cancel()
        gone.cancel()
        await asyncio.gather(task, gone, return_exceptions=True)


async def until_gone(receive: Receive) -> None:
    """Returns when the caller hangs up."""
    message: Any = {}
    while message.get("type") != "http.disconnect":
        message = await receive()
