"""Clients of the services, for the person who asks: all share one connection, and each carries that person's token."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from omnialign.client import AsyncClient
from omnialign.client.clients import with_token
from services.runtime.connections import ClientFactory


class Clients:
    """Makes clients. They cost next to nothing, live as long as this, and are not closed."""

    def __init__(self, shared: AsyncClient) -> None:
        self._shared = shared

    def of(self, token: str, project: str) -> AsyncClient:
        """A client with a bearer token, empty for none."""
        return with_token(self._shared, token or None, project=project)


@asynccontextmanager
async def open_clients(
    factory: ClientFactory, address: str, *, deadline_seconds: float | None = None
) -> AsyncIterator[Clients]:
    """Clients of the services at an address, while the block runs. Nothing of the console's own identity is sent."""
    async with factory.client(address, deadline_seconds=deadline_seconds) as shared:
        yield Clients(shared)
