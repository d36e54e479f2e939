"""Requests that may have ended an engine: an input that crashes vLLM must not do so again and again.

When an engine dies, every request that it ran is under suspicion. Suspects run one at a time from then on. One that
survives is cleared; one whose engine dies again and again while it runs is refused, which fails it alone.
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
"""Engines that may die under one request; the first of them by another, perhaps."""
MAX_SUSPECTS = 10_000


class Suspects:
    """The requests that were running when an engine died, by what they ask. For use on one event loop."""

    def __init__(self) -> None:
        self._deaths: OrderedDict[str, int] = OrderedDict()
        self._fallen: WeakKeyDictionary[Any, set[str]] = WeakKeyDictionary()
        self._alone = asyncio.Lock()

    @asynccontextmanager
    async def watch(self, model: VllmModel, request: EngineRequest) -> AsyncIterator[None]:
        """Runs a request, behind the other suspects if it is one. Raises InvalidArgument REQUEST_KILLS_ENGINE."""
        key = _key(request)
        if key not in self._deaths:
            async with self._noted(key, model):
                yield
            return
        async with self._alone:
            if (deaths := self._deaths.get(key, 0)) >= MAX_DEATHS:
                raise _deadly(request, deaths)
            async with self._noted(key, model):
                yield

    @asynccontextmanager
    async def _noted(self, key: str, model: VllmModel) -> AsyncIterator[None]:
        """Counts a death of the engine meanwhile, however the request then ends."""
        was_dead = model.is_dead
        try:
            yield
        finally:
            if not model.is_dead:
                self._deaths.pop(key, None)
            elif not was_dead and key not in (seen := self._fallen.setdefault(model.llm, set())):
                seen.add(key)  # requests that ask the same die together
                self._deaths[key] = self._deaths.pop(key, 0) + 1
                if len(self._deaths) > MAX_SUSPECTS:
                    self._deaths.popitem(last=False)


def _key(request: EngineRequest) -> str:
    media, texts = order_of(request)
    return hashlib.sha256(repr((request.model, media, texts, request.policy.identity)).encode()).hexdigest()


def _deadly(request: EngineRequest, deaths: int) -> InvalidArgument:
    return InvalidArgument(
        f"vLLM's engine of {request.model} has ended {deaths} times while it ran this request, the last times without "
        "another suspect; its log tells why.",
        reason="REQUEST_KILLS_ENGINE",
        metadata={"model": request.model, "deaths": str(deaths)},
    )
