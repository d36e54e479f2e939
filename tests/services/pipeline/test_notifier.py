"""Whoever looks and then waits misses nothing that happens in between."""

import asyncio
import time

from services.pipeline.notifier import Signal

LONG_SECONDS = 60.0


async def test_a_call_between_the_look_and_the_wait_ends_the_wait_at_once() -> None:
    signal = Signal()
    seen = signal.count
    signal.notify_all()
    begun = time.monotonic()
    await signal.wait(timeout_seconds=LONG_SECONDS, since=seen)
    assert time.monotonic() - begun < LONG_SECONDS / 2


async def test_a_call_before_the_look_does_not() -> None:
    signal = Signal()
    signal.notify_all()
    waiting = asyncio.create_task(signal.wait(timeout_seconds=LONG_SECONDS, since=signal.count))
    await asyncio.sleep(0)
    assert not waiting.done()
    signal.notify_all()
    await asyncio.wait_for(waiting, LONG_SECONDS / 2)
