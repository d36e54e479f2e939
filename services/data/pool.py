"""Running blocking work in a bounded pool of threads, off the event loop."""

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def call(pool: ThreadPoolExecutor, function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Waits for `function(*args, **kwargs)` in the pool. A cancelled wait leaves a call that has begun to end alone."""
    return await asyncio.get_running_loop().run_in_executor(pool, lambda: function(*args, **kwargs))
