"""One process at a time works on a folder: a lock file beside it, held by the operating system."""

import asyncio
import fcntl
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

POLL_SECONDS = 0.1


@asynccontextmanager
async def folder_lock(folder: Path) -> AsyncIterator[None]:
    """Waits for the lock of `folder`, which need not exist. A process that dies gives it back."""
    handle = os.open(folder.parent / f".{folder.name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while not _try_lock(handle):  # noqa: ASYNC110  what is awaited is another process
            await asyncio.sleep(POLL_SECONDS)
        yield
    finally:
        os.close(handle)  # which gives the lock back


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
