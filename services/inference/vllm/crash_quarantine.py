"""Quarantine of requests that may have crashed an engine: one input that crashes vLLM must not do so again and again.

When an engine dies, every request that it ran becomes a suspect. From then on suspects run one at a time. A suspect
that survives is cleared. One whose engine keeps dying while it runs is refused, which fails that request alone.
"""

import asyncio
import hashlib
from collections import OrderedDict
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any
from weakref import WeakKeyDictionary

from omnialign.errors import InvalidArgument
from services.inference.engine import EngineRequest
from services.inference.vllm.process import VllmModel
from services.inference.vllm.requests import order_of

MAX_DEATHS = 3
"""Engines that may die under one request. The first may have died of another; from the second on it ran as the only
suspect."""
MAX_SUSPECTS = 10_000


class CrashSuspects:
    """The requests that were running when an engine died, by what they ask. For use on one event loop."""

    def __init__(self) -> None:
        self._num_deaths: OrderedDict[str, int] = OrderedDict()  # oldest suspect first
        self._counted: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()  # suspects by dead engine
        self._turn = asyncio.Lock()

    @asynccontextmanager
    async def watch(self, model: VllmModel, request: EngineRequest) -> AsyncIterator[None]:
        """Runs a request, a suspect only when no other suspect runs. Raises InvalidArgument REQUEST_KILLS_ENGINE."""
        key = _key(request)
        if key not in self._num_deaths:
            async with self._counting(key, model):
                yield
            return
        async with self._turn:
            if (num_deaths := self._num_deaths.get(key, 0)) >= MAX_DEATHS:
                raise _deadly(request, num_deaths)
            async with self._counting(key, model):
                yield

    @asynccontextmanager
    async def _counting(self, key: str, model: VllmModel) -> AsyncIterator[None]:
        """Counts a death of the engine meanwhile, however the request itself ends."""
        was_dead = model.is_dead
        try:
            yield
        finally:
            if not model.is_dead:
                self._num_deaths.pop(key, None)  # it survived
            elif not was_dead and key not in (counted := self._counted.setdefault(model.llm, set())):
                # Requests that ask the same die together: one engine counts once for all of them.
                counted.add(key)
                self._num_deaths[key] = self._num_deaths.pop(key, 0) + 1
                if len(self._num_deaths) > MAX_SUSPECTS:
                    self._num_deaths.popitem(last=False)


def _key(request: EngineRequest) -> str:
    """What a request asks, whoever asks it: ids and seeds differ when a caller tries again."""
    media, texts = order_of(request)
    return hashlib.sha256(repr((request.model, media, texts, request.policy.identity)).encode()).hexdigest()


def _deadly(request: EngineRequest, num_deaths: int) -> InvalidArgument:
    return InvalidArgument(
        f"The vLLM engine of {request.model} died {num_deaths} times while it ran this request, the last times without "
        "another suspect; see its log for the reason.",
        reason="REQUEST_KILLS_ENGINE",
        metadata={"model": request.model, "deaths": str(num_deaths)},
    )
