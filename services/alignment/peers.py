"""Clients of the services that a job calls, one channel per address and project, opened on first use."""

import asyncio
import contextlib
from dataclasses import dataclass

from omnialign.client import AsyncClient
from services.alignment.config import AlignmentConfig
from services.runtime.peers import Peers as Connections


@dataclass(frozen=True)
class Peers:
    """The services, seen from one project."""

    data: AsyncClient
    refinement: AsyncClient
    critique: AsyncClient
    judge: AsyncClient
    training: AsyncClient


class Directory:
    """Makes and keeps the clients; closing it closes them."""

    def __init__(self, config: AlignmentConfig, connections: Connections | None = None) -> None:
        self._config = config
        self._connections = connections or Connections()
        self._clients: dict[tuple[str, str], AsyncClient] = {}
        self._stack = contextlib.AsyncExitStack()
        self._lock = asyncio.Lock()

    async def of(self, project: str) -> Peers:
        """The services for a project id."""
        config = self._config
        addresses = (
            config.data_address,
            config.refinement_address,
            config.critique_address,
            config.judge_address,
            config.training_address,
        )
        async with self._lock:
            return Peers(*[await self._client(address, project) for address in addresses])

    async def close(self) -> None:
        """Closes all channels."""
        await self._stack.aclose()
        self._clients.clear()

    async def _client(self, address: str, project: str) -> AsyncClient:
        key = (address, project)
        if key not in self._clients:
            client = self._connections.client(address, project=project)
            self._clients[key] = await self._stack.enter_async_context(client)
        return self._clients[key]
