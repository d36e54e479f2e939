"""Builds what a model service runs on: the engines, the routing between them, and the item loop.

A process has one local engine, of the configured kind, and one engine for OpenAI-compatible endpoints. A request goes
where its model is.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import AbstractAsyncContextManager, aclosing, asynccontextmanager
from dataclasses import replace
from typing import TypeVar

from services.inference.config import EngineConfig, ModelServiceConfig
from services.inference.engine import Deliver, Engine, EngineRequest
from services.inference.item_loop import ItemLoop
from services.inference.media import MediaClient
from services.inference.metrics import PolicyMetrics
from services.inference.model_uri import is_endpoint_model
from services.inference.models.resolver import ModelResolver
from services.inference.openai.engine import open_openai_engine
from services.inference.policies.store import PolicyStore, is_policy
from services.inference.transformers.engine import open_transformers_engine
from services.inference.vllm.engine import open_vllm_engine
from services.runtime.config import load
from services.runtime.server import Server
from services.sandbox.media import open_sandbox

EngineT = TypeVar("EngineT", bound=Engine)

OPENERS: dict[str, Callable[..., AbstractAsyncContextManager[Engine]]] = {
    "transformers": open_transformers_engine,
    "vllm": open_vllm_engine,
}
"""How a local engine is opened, by `EngineConfig.kind`. vLLM itself is imported only when such an engine is opened."""


class RoutingEngine(Engine):
    """Asks `endpoints` for `openai+http(s)://` models, and `local` for all others and for policies."""

    def __init__(self, local: Engine, endpoints: Engine, policies: PolicyStore) -> None:
        self._local, self._endpoints, self.policies = local, endpoints, policies

    async def run(
        self, model: str, requests: Sequence[EngineRequest], deliver: Deliver, *, deterministic: bool
    ) -> None:
        """Runs requests on the engine that has their model; those to a policy name the version that ran them."""
        if not is_policy(model):
            await self._engine_of(model).run(model, requests, deliver, deterministic=deterministic)
            return
        async with self.policies.use(model) as held:
            named = [replace(request, model=held.name) for request in requests]
            await self._local.run(held.model, named, deliver, deterministic=deterministic)

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
            resolver, counts = ModelResolver.of(config, client), PolicyMetrics(server.registry)
            async with aclosing(PolicyStore(config.policy_folder, local, resolver, counts)) as policies:
                yield RoutingEngine(local, endpoints, policies)


@asynccontextmanager
async def engine_or_own(
    server: Server, config: ModelServiceConfig, engine: EngineT | None
) -> AsyncIterator[EngineT | RoutingEngine]:
    """The engine that is given; for None one of its own, configured by `OMNIALIGN_ENGINE_*`."""
    if engine is not None:
        yield engine
        return
    async with open_engine(server, load(EngineConfig), data_address=config.data_address) as own:
        yield own


@asynccontextmanager
async def open_loop(server: Server, config: ModelServiceConfig, *, engine: Engine | None) -> AsyncIterator[ItemLoop]:
    """An item loop on `engine`; for None on an engine of its own."""
    async with (
        engine_or_own(server, config, engine) as found,
        server.clients.client(config.data_address, project=config.project) as client,
    ):
        media = MediaClient(client, capacity_bytes=config.media_cache_bytes)
        yield ItemLoop(found, media, max_new_tokens=config.max_new_tokens)
