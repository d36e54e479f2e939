"""What is left of a client stream when its call is refused before all was read."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

MAX_LEFTOVER_BYTES = 64 * 1024 * 1024
MAX_LEFTOVER_SECONDS = 5.0


async def read_leftovers(messages: AsyncIterator[Any]) -> None:
    """Reads a refused stream on for a while, so that its client has written all before the error goes out.

    A grpc.aio client whose write meets an ended call reports INTERNAL instead of the status that the server sent. A
    client that writes more, or never ends its stream, is not waited for.
    """
    size_bytes = 0
    try:
        async with asyncio.timeout(MAX_LEFTOVER_SECONDS):
            async for message in messages:
                size_bytes += message.ByteSize()
                if size_bytes > MAX_LEFTOVER_BYTES:
                    return
    except TimeoutError:
        return
