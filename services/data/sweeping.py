"""Sweeps: what nobody needs any more is removed every so often. Replicas may sweep at the same time."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager, suppress

_log = logging.getLogger(__name__)

Sweep = Callable[[], Awaitable[int]]
"""Removes what is due; returns how many things it removed."""


@asynccontextmanager
async def sweeping(sweeps: Mapping[str, Sweep], *, seconds: float) -> AsyncIterator[None]:
    """Runs the sweeps, by what they remove, every `seconds` inside the `with` block."""
    task = asyncio.create_task(_sweep_periodically(sweeps, seconds), name="sweep")
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


async def _sweep_periodically(sweeps: Mapping[str, Sweep], seconds: float) -> None:
    while True:
        await asyncio.sleep(seconds)
        for things, sweep in sweeps.items():
            try:
                if num_removed := await sweep():
                    _log.info("removed %d %s", num_removed, things, extra={"removed": num_removed})
            except Exception as error:  # the next sweep tries again
                _log.warning("%s cannot be removed now: %s", things, error)
