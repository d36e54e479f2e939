"""The data service and all model services on one port, on one engine."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnialign.client import AsyncClient
from services.critique.__main__ import CritiqueConfig
from services.critique.__main__ import wire as wire_critique
from services.data.__main__ import wire as wire_data
from services.data.config import DataConfig
from services.inference.config import EngineConfig
from services.inference.factory import RoutingEngine, open_engine
from services.judge.__main__ import JudgeConfig
from services.judge.__main__ import wire as wire_judge
from services.refinement.__main__ import RefinementConfig
from services.refinement.__main__ import wire as wire_refinement
from services.runtime.config import ServerConfig
from services.runtime.server import Server


@dataclass(frozen=True)
class ServiceStack:
    """All model services and the data service on one port."""

    client: AsyncClient
    server: Server
    engine: RoutingEngine


@asynccontextmanager
async def serve_stack(
    root: Path, *, port: int = 0, refinement: Mapping[str, Any] | None = None, **settings: object
) -> AsyncIterator[ServiceStack]:
    """The services with one engine of these settings; `refinement` are those of the refinement service."""
    server = Server(ServerConfig(port=port), name="stack")
    address = server.bind()
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(wire_data(server, DataConfig(root=root)))
        settings = {"threads": 1, "policy_folder": root / "policies", **settings}
        config = EngineConfig(**settings)  # type: ignore[arg-type]
        engine = await stack.enter_async_context(open_engine(server, config, data_address=address))
        refining = RefinementConfig(address, **(refinement or {}))
        await stack.enter_async_context(wire_refinement(server, refining, engine=engine))
        await stack.enter_async_context(wire_critique(server, CritiqueConfig(address), engine=engine))
        await stack.enter_async_context(wire_judge(server, JudgeConfig(address), engine=engine))
        await server.start()
        stack.push_async_callback(server.stop, 0)
        server.set_serving()
        client = await stack.enter_async_context(AsyncClient(address))
        yield ServiceStack(client, server, engine)
