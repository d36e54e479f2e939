"""What others notice while hostile files arrive: the latency of their calls, and the memory of the services."""

import asyncio
import io
import itertools
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import numpy as np
import psutil
from PIL import Image

from omnialign.client import AsyncClient
from omnialign.v1 import content_pb2

MIB = 1 << 20
PAUSE_SECONDS = 0.05
REST_SECONDS = 3.0


@dataclass
class Watch:
    """Measures until its block ends. `process` holds the services; its children are the sandbox's."""

    client: AsyncClient
    process: psutil.Process
    seconds: list[float] = field(default_factory=list)
    rest_bytes: int = 0
    most_bytes: int = 0

    @property
    def p99_seconds(self) -> float:
        """The latency that one call in a hundred exceeds."""
        return float(np.quantile(self.seconds, 0.99))

    @property
    def memory_ratio(self) -> float:
        """The most memory in use, over the memory at rest."""
        return self.most_bytes / self.rest_bytes

    @asynccontextmanager
    async def watching(self) -> AsyncIterator["Watch"]:
        """Lets an ordinary caller work inside the block."""
        await self._settle()
        task = asyncio.create_task(self._call_on())
        try:
            yield self
        finally:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task

    async def _settle(self) -> None:
        """Memory at rest: after the caller's kinds of calls have been made for a while."""
        deadline = time.monotonic() + REST_SECONDS
        for number in itertools.count():
            await self._call(-1 - number)
            if time.monotonic() > deadline:
                break
        self.rest_bytes = self.process.memory_info().rss
        self.seconds.clear()

    async def _call_on(self) -> None:
        for number in itertools.count():
            await self._call(number)
            self.most_bytes = max(self.most_bytes, self.process.memory_info().rss)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _call(self, number: int) -> None:
        """One upload that is decoded, and one read of a table."""
        started = time.monotonic()
        await self.client.upload_media(picture(number), modality=content_pb2.MODALITY_IMAGE)
        async for _ in self.client.list_datasets():
            break
        self.seconds.append(time.monotonic() - started)


def picture(number: int) -> bytes:
    """A small picture that no other number gives."""
    buffer = io.BytesIO()
    pixels = np.random.default_rng(abs(number) * 2 + (number < 0)).integers(0, 255, (16, 16, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(buffer, "PNG")
    return buffer.getvalue()
