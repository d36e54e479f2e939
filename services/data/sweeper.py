"""Removing what has expired, again and again while the service runs. Every replica does; it harms nothing."""

import asyncio
import logging
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress

from services.data.pool import call
from services.data.uploads import Uploads

_log = logging.getLogger(__name__)


@asynccontextmanager
async def sweeping(uploads: Uploads, *, every_seconds: float, pool: ThreadPoolExecutor) -> AsyncIterator[None]:
    """Sweeps expired uploads in the background."""
    task = asyncio.create_task(_sweep(uploads, every_seconds, pool), name="sweep uploads")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _sweep(uploads: Uploads, every_seconds: float, pool: ThreadPoolExecutor) -> None:
    while True:
        await asyncio.sleep(every_seconds)
        try:
            if removed := await call(pool, uploads.sweep):
                _log.info("removed %d expired uploads", removed, extra={"uploads": removed})
        except Exception as error:  # the next sweep will find them
            _log.warning("expired uploads cannot be removed now: %s", error)
