"""One engine out of two: models behind endpoints go to one, all others to the other."""

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing

from services.inference.engine import Engine, EngineRequest, EngineResult
from services.inference.fan_out import Deliver, fan_out
from services.inference.openai_names import is_endpoint_model


class RoutingEngine:
    """Satisfies `Engine`: asks `endpoints` for `openai+http(s)://` models, and `local` for all others."""

    def __init__(self, local: Engine, endpoints: Engine) -> None:
        self._local, self._endpoints = local, endpoints

    async def load(self, model: str) -> None:
        """Makes a model resident."""
        await self._of(model).load(model)

    async def unload(self, model: str) -> None:
        """Frees a model's memory."""
        await self._of(model).unload(model)

    async def generate(
        self, requests: Sequence[EngineRequest], *, deterministic: bool = False
    ) -> AsyncGenerator[EngineResult, None]:
        """One result per request, as each finishes; see `Engine.generate`."""

        async def run(model: str, some: Sequence[EngineRequest], deliver: Deliver) -> None:
            results = self._of(model).generate(some, deterministic=deterministic)
            async with aclosing(results):
                async for result in results:
                    deliver(result)

        results = fan_out(requests, run)
        async with aclosing(results):
            async for result in results:
                yield result

    def _of(self, model: str) -> Engine:
        return self._endpoints if is_endpoint_model(model) else self._local
