"""Reading one item ahead, so that making the next one and using the last one overlap."""

import asyncio
from collections.abc import AsyncGenerator
from contextlib import suppress
from typing import TypeVar

T = TypeVar("T")


async def read_ahead(items: AsyncGenerator[T, None]) -> AsyncGenerator[T, None]:
    """The items, of which the next one is under way. Closing it closes `items`."""
    coming = asyncio.ensure_future(_next(items))
    try:
        while (item := await coming) is not None:
            coming = asyncio.ensure_future(_next(items))
            await asyncio.sleep(0)  # it begins now: whoever uses this item may not wait for anything meanwhile
            yield item[0]
    finally:
        coming.cancel()
        with suppress(asyncio.CancelledError, Exception):  # it failed for nobody
            await coming
        await items.aclose()


async def _next(items: AsyncGenerator[T, None]) -> tuple[T] | None:
    try:
        return (await anext(items),)
    except StopAsyncIteration:
        return None
