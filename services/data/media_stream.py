"""Batches of media that arrive, or are offered, one by one: as many as are there.

So what is paid for each batch is paid seldom.
"""

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator

from omnialign.v1.data_service_pb2 import OfferedMedium, SentMedium

Arriving = SentMedium | OfferedMedium
MAX_MEDIA = 256
MAX_BYTES = 8 * 2**20
READ_AHEAD = 16
"""Media that are read while a batch is being stored, of a MiB at most each; the sender of more has to wait."""
LINGER_SECONDS = 0.02
"""How long a batch waits for another medium."""


async def batches(arriving: AsyncIterator[Arriving]) -> AsyncGenerator[list[Arriving], None]:
    """Batches of up to `MAX_MEDIA` media and about `MAX_BYTES`. Raises what `arriving` raises, after what came before.

    Reads ahead while the caller is busy with a batch.
    """
    queue = asyncio.Queue[Arriving | None](READ_AHEAD)
    reader = asyncio.create_task(_read(arriving, queue))
    try:
        while (first := await queue.get()) is not None:
            batch, is_last = await _filled(queue, first)
            yield batch
            if is_last:
                break
        await reader
    finally:
        reader.cancel()
        await asyncio.gather(reader, return_exceptions=True)


async def _read(arriving: AsyncIterator[Arriving], queue: asyncio.Queue[Arriving | None]) -> None:
    try:
        async for medium in arriving:
            await queue.put(medium)
    except Exception:
        await queue.put(None)
        raise
    await queue.put(None)


async def _filled(queue: asyncio.Queue[Arriving | None], first: Arriving) -> tuple[list[Arriving], bool]:
    """A batch that begins with `first`, and whether nothing follows it."""
    batch, size_bytes = [first], _size(first)
    while len(batch) < MAX_MEDIA and size_bytes < MAX_BYTES:
        try:
            async with asyncio.timeout(LINGER_SECONDS):
                medium = await queue.get()
        except TimeoutError:
            return batch, False
        if medium is None:
            return batch, True
        batch.append(medium)
        size_bytes += _size(medium)
    return batch, False


def _size(medium: Arriving) -> int:
    return len(medium.data) if isinstance(medium, SentMedium) else 0
