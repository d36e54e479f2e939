"""What a model service is wired with: a connection to the data service, media at hand, and an engine."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager

from services.inference.config import EngineConfig
from services.inference.engine import Engine
from services.inference.media import AsyncMediaReader
from services.inference.model_service import ModelServiceConfig
from services.inference.openai_engine import open_openai_engine
from services.inference.routing import RoutingEngine
from services.inference.stream import ItemLoop
from services.inference.transformers_engine import open_transformers_engine
from services.inference.vllm_engine import open_vllm_engine
from services.runtime.config import load
from services.runtime.server import Server

OPENERS: dict[str, Callable[..., AbstractAsyncContextManager[Engine]]] = {
    "transformers": open_transformers_engine,
    "vllm": open_vllm_engine,
}


@asynccontextmanager
async def open_engine(server: Server, config: EngineConfig, *, data_address: str) -> AsyncIterator[RoutingEngine]:
    """An engine whose metrics are the server's, with models looked up at `data_address` when they are asked for."""
    async with (
        server.peers.client(data_address) as client,
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
        client = await stack.enter_async_context(server.peers.client(config.data_address, project=config.project))
        yield ItemLoop(engine, AsyncMediaReader(client, capacity_bytes=config.media_cache_bytes))
