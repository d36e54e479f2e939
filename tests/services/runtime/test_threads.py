"""Work in a thread of its own."""

import asyncio
import threading

import pytest

from services.runtime.threads import in_own_thread


async def test_a_wait_that_is_cancelled_ends_at_once_and_the_work_goes_on() -> None:
    def work() -> None:
        begun.set()
        go_on.wait(10)
        done.set()

    begun, go_on, done = threading.Event(), threading.Event(), threading.Event()
    waiting = asyncio.create_task(in_own_thread(work))
    await asyncio.to_thread(begun.wait, 10)
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert not done.is_set()
    go_on.set()
    assert await asyncio.to_thread(done.wait, 10)


async def test_what_the_work_gives_or_raises_reaches_who_waits() -> None:
    assert await in_own_thread(threading.get_ident) != threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await in_own_thread(lambda: 1 // 0)
