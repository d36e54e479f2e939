"""Wires the gateway."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import grpc

from omnialign.client.options import CHANNEL_OPTIONS
from services.gateway.config import GatewayConfig
from services.gateway.servicer import Proxy
from services.runtime.server import Server, run

FULL_NAME = "omnialign.Gateway"
"""Its name to health checks; it has no methods of its own."""


@asynccontextmanager
async def wire(server: Server, config: GatewayConfig) -> AsyncIterator[None]:
    """Adds the gateway to a server; on exit closes its connections."""
    async with AsyncExitStack() as stack:
        channels: dict[str, Any] = {}
        for name, address in config.routes().items():
            channel = grpc.aio.insecure_channel(address, options=CHANNEL_OPTIONS)
            channels[name] = await stack.enter_async_context(channel)
        server.add_generic(Proxy(channels), FULL_NAME)
        yield


def main() -> None:
    """Runs the gateway until SIGTERM."""
    run("gateway", GatewayConfig, wire)


if __name__ == "__main__":
    main()
