"""Wires the gateway."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

from services.gateway.config import GatewayConfig
from services.gateway.servicer import Proxy
from services.runtime.server import Server, run

FULL_NAME = "omnialign.Gateway"
"""Its name to health checks; it has no methods of its own."""


@asynccontextmanager
async def wire(server: Server, config: GatewayConfig) -> AsyncIterator[None]:
    """Adds the gateway to a server; on exit closes its connections."""
    async with AsyncExitStack() as stack:
        routes, channels = config.routes(), dict[str, Any]()
        for address in set(routes.values()):
            channels[address] = await stack.enter_async_context(server.clients.channel(address))
        proxy = Proxy({path: channels[address] for path, address in routes.items()})
        server.add_generic(proxy, FULL_NAME)
        yield


def main() -> None:
    """Runs the gateway until SIGTERM."""
    run("gateway", GatewayConfig, wire)


if __name__ == "__main__":
    main()
