"""Builds what a model service runs on: the engines, the routing between them, and the item loop.

A process has one local engine, of the configured kind, and one engine for OpenAI-compatible endpoints. A request goes
where its model is.
"""

from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from typing import Any

from services.inference.config import EngineConfig, ModelServiceConfig
from services.inference.engine import Deliver, Engine, EngineRequest
from services.inference.item_loop import ItemLoop
from services.inference.media import MediaClient
from services.inference.model_uri import is_endpoint_model
from services.inference.openai.engine import open_openai_engine
from services.inference.transformers.engine import open_transformers_engine
from services.inference.vllm.engine import open_vllm_engine
from services.runtime.config import load
from services.runtime.server import Server
from services.sandbox.media import open_sandbox

OPENERS: dict[str, Callable[..., AbstractAsyncContextManager[Engine]]] = {
    "transformers": open_transformers_engine,
    "vllm": open_vllm_engine,
}
"""How a local engine is opened, by `EngineConfig.kind`. vLLM itself is imported only when such an engine is opened."""


class RoutingEngine(Engine):
    """Asks `endpoints` for `openai+http(s)://` models, and `local` for all others."""

    def __init__(self, local: Engine, endpoints: Engine) -> None:
        self._local, self._endpoints = local, endpoints

    def run(
        self, model: str, requests: Sequence[EngineRequest], deliver: Deliver, *, deterministic: bool
    ) -> Coroutine[Any, Any, None]:
        """Runs requests on the engine that has their model."""
        return self._engine_of(model).run(model, requests, deliver, deterministic=deterministic)

    async def load(self, model: str) -> None:
        """Makes a model resident."""
        await self._engine_of(model).load(model)

    async def unload(self, model: str) -> None:
        """Frees a model's memory."""
        await self._engine_of(model).unload(model)

    def _engine_of(self, model: str) -> Engine:
        return self._endpoints if is_endpoint_model(model) else self._local


@asynccontextmanager
async def open_engine(server: Server, config: EngineConfig, *, data_address: str) -> AsyncIterator[RoutingEngine]:
    """An engine whose metrics are the server's, and whose models are looked up at `data_address` when requested."""
    with open_sandbox(server.registry):  # engines decode prompts' media in its children
        async with (
            server.clients.client(data_address) as client,
            OPENERS[config.kind](config, models=client, metrics=server.registry) as local,
            open_openai_engine(config, models=client, metrics=server.registry) as endpoints,
        ):
            yield RoutingEngine(local, endpoints)


@asynccontextmanager
async def open_loop(server: Server, config: ModelServiceConfig, *, engine: Engine | None) -> AsyncIterator[ItemLoop]:
    """An item loop on `engine`; for None on an engine of its own, configured by `OMNIALIGN_ENGINE_*`."""
    async with AsyncExitStack() as stack:
        if engine is None:
            opening = open_engine(server, load(EngineConfig), data_address=config.data_address)
            engine = await stack.enter_async_context(opening)
        client = await stack.enter_async_context(server.clients.client(config.data_address, project=config.project))
        media = MediaClient(client, capacity_bytes=config.media_cache_bytes)
        yield ItemLoop(engine, media, max_new_tokens=config.max_new_tokens)
