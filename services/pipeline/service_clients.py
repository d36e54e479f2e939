"""Clients of the services that a job calls: one channel per address and project, opened on first use."""

import asyncio
import contextlib
from collections.abc import Mapping

from omnialign.client import AsyncClient
from services.runtime.connections import ClientFactory


class ServiceClients:
    """The services as one project sees them, an attribute each: `clients.data`, `clients.judge`, ...

    Which ones there are is up to the job kind's configuration (`PipelineConfig.service_addresses`).
    """

    def __init__(self, **clients: AsyncClient) -> None:
        self._clients = clients

    def __getattr__(self, service: str) -> AsyncClient:
        try:
            return self.__dict__["_clients"][service]  # type: ignore[no-any-return]
        except KeyError:
            raise AttributeError(f"no address is configured for the {service} service") from None


class ClientPool:
    """Opens and keeps the clients; closing the pool closes them. `addresses` are by service name."""

    def __init__(self, addresses: Mapping[str, str], factory: ClientFactory | None = None) -> None:
        self._addresses = addresses
        self._factory = factory or ClientFactory()
        self._clients: dict[tuple[str, str], AsyncClient] = {}
        self._stack = contextlib.AsyncExitStack()
        self._lock = asyncio.Lock()

    async def of(self, project: str) -> ServiceClients:
        """The services for a project id."""
        async with self._lock:  # else two that come at once would open a channel each
            found = {service: await self._client(address, project) for service, address in self._addresses.items()}
        return ServiceClients(**found)

    async def close(self) -> None:
        """Closes all channels."""
        await self._stack.aclose()
        self._clients.clear()

    async def _client(self, address: str, project: str) -> AsyncClient:
        key = (address, project)
        if key not in self._clients:
            client = self._factory.client(address, project=project)
            self._clients[key] = await self._stack.enter_async_context(client)
        return self._clients[key]
