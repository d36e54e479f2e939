"""A data service on a real port, with its real store in a temporary folder, and a client for it."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from omnialign.client import AsyncClient
from services.data.__main__ import wire
from services.data.config import DataConfig
from services.data.store import Store
from services.data.usage import Usage, UsageMetrics
from services.runtime.config import ServerConfig
from services.runtime.database import Database
from services.runtime.limits import Quotas
from services.runtime.server import Server


@asynccontextmanager
async def serve(root: Path, **settings: Any) -> AsyncIterator[AsyncClient]:
    """A client of a data service with these settings."""
    server = Server(ServerConfig(), name="data")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(wire(server, DataConfig(root=root, **settings)))
        await server.start()
        stack.push_async_callback(server.stop, 0)
        server.set_serving()
        yield await stack.enter_async_context(AsyncClient(server.address, project="default"))


@pytest.fixture
async def client(tmp_path: Path) -> AsyncIterator[AsyncClient]:
    async with serve(tmp_path / "state") as found:
        yield found


@pytest.fixture
async def usage(tmp_path: Path) -> AsyncIterator[Usage]:
    """What projects store, without a quota."""
    database = Database(f"sqlite:///{tmp_path / 'usage' / 'data.db'}")
    await Store(database).prepare()
    yield Usage(database, quotas=Quotas(), metrics=UsageMetrics(CollectorRegistry()))
    await database.close()


@pytest.fixture
def serving() -> Any:
    return serve
