"""One engine out of two: models behind endpoints go to one, all others to the other.

What a model service is wired with: a connection to the data service, media at hand, and an engine."""

from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, aclosing, asynccontextmanager

from services.inference.config import EngineConfig, ModelServiceConfig
from services.inference.engine import Deliver, Engine, EngineRequest, EngineResult, fan_out
from services.inference.item_loop import ItemLoop
from services.inference.media import AsyncMediaReader
from services.inference.model_uri import is_endpoint_model
from services.inference.openai.engine import open_openai_engine
from services.inference.transformers.engine import open_transformers_engine
from services.inference.vllm.engine import open_vllm_engine
from services.runtime.config import load
from services.runtime.server import Server


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


OPENERS: dict[str, Callable[..., AbstractAsyncContextManager[Engine]]] = {
    "transformers": open_transformers_engine,
    "vllm": open_vllm_engine,
}


@asynccontextmanager
async def open_engine(server: Server, config: EngineConfig, *, data_address: str) -> AsyncIterator[RoutingEngine]:
    """An engine whose metrics are the server's, with models looked up at `data_address` when they are asked for."""
    async with (
        server.clients.client(data_address) as client,
        OPENERS[config.kind](config, models=client, metrics=server.registry) as local,
        open_openai_engine(config, models=client, metrics=server.registry) as endpoints,
    ):
        yield RoutingEngine(local, endpoints)


@asynccontextmanager
async def open_loop(server: Server, config: ModelServiceConfig, *, engine: Engine | None) -> AsyncIterator[ItemLoop]:
    """An item loop on `engine`, or on one of its own, configured by `OMNIALIGN_ENGINE_*`, for None."""
    async with AsyncExitStack() as stack:
        if engine is None:
            opening = open_engine(server, load(EngineConfig), data_address=config.data_address)
            engine = await stack.enter_async_context(opening)
        client = await stack.enter_async_context(server.clients.client(config.data_address, project=config.project))
        yield ItemLoop(engine, AsyncMediaReader(client, capacity_bytes=config.media_cache_bytes))
