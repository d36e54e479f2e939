"""The newest versions of models: looked up once for the requests that come together, not once for each of them.

An answer is kept for a second, so a version that was just registered answers within a second, and a caller who asks
often spends no calls of the project's rate on looking up the same name again and again.
"""

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable

from omnialign.client import AsyncClient
from services.console.door.callers import Caller

KEPT_SECONDS = 1.0
MAX_KEPT = 1024

Key = tuple[Caller, str]


class NewestVersions:
    """Finds the full names of models, for each caller with that caller's own rights."""

    def __init__(self, *, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._kept: OrderedDict[Key, tuple[float, asyncio.Task[str]]] = OrderedDict()

    async def find(self, client: AsyncClient, caller: Caller, model: str) -> str:
        """The full name of a model's version, as `AsyncClient.find_model`, and raises what that raises."""
        key, now = (caller, model), self._clock()
        made, task = self._kept.get(key, (0.0, None))
        if task is None or now - made > KEPT_SECONDS:
            task = asyncio.create_task(client.find_model(model))
            task.add_done_callback(lambda done: self._forget_failed(key, done))
            self._kept[key] = (now, task)
            self._kept.move_to_end(key)
            if len(self._kept) > MAX_KEPT:
                self._kept.popitem(last=False)
        return await asyncio.shield(task)  # it goes on for other requests if this one is cancelled

    def _forget_failed(self, key: Key, task: "asyncio.Task[str]") -> None:
        if task.cancelled() or task.exception() is not None:
            _, kept = self._kept.get(key, (0.0, None))
            if kept is task:
                del self._kept[key]
