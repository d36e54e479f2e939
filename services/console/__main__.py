"""Builds the console and serves it until SIGTERM; with all services in one process, beside them."""

import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager

import uvloop
from prometheus_client import CollectorRegistry

from services.console import door
from services.console.app import make_app
from services.console.clients import open_clients
from services.console.config import ConsoleConfig
from services.console.http_metrics import HttpMetrics
from services.console.lifetime import FULL_NAME, Lifetime
from services.console.oidc import Issuer
from services.console.previews import Previews
from services.console.server import WebServer, metrics_served
from services.runtime import logs
from services.runtime.config import ConfigError, ServerConfig, load_all
from services.runtime.connections import ClientConfig, ClientFactory
from services.runtime.health_server import health_served
from services.runtime.metrics import make_registry
from services.runtime.server import EXIT_CONFIG
from services.runtime.tracing import TracingConfig, exported
from services.sandbox.media import open_sandbox

__all__ = ["FULL_NAME", "main", "opened"]


@asynccontextmanager
async def opened(
    config: ConsoleConfig,
    server_config: ServerConfig,
    *,
    clients: ClientFactory,
    registry: CollectorRegistry,
    or_any: bool = False,
) -> AsyncIterator[WebServer]:
    """A console that answers while the block runs, with `or_any` at a free port if its own is taken.

    Raises FailedPrecondition PORT_TAKEN.
    """
    lifetime = Lifetime()
    async with AsyncExitStack() as stack:
        sandbox = stack.enter_context(open_sandbox(registry))
        previews = Previews(sandbox, max_source_bytes=config.max_preview_source_bytes, kept_bytes=config.preview_bytes)
        stack.push_async_callback(previews.close)
        callers = await stack.enter_async_context(
            open_clients(clients, config.gateway_address, deadline_seconds=config.deadline_seconds)
        )
        issuer = Issuer(config) if config.oidc_issuer else None
        if issuer:
            stack.push_async_callback(issuer.close)
        app = make_app(
            config,
            callers,
            metrics=HttpMetrics(registry),
            lifetime=lifetime,
            previews=previews,
            secure=config.https or server_config.tls is not None,
            issuer=issuer,
            more=door.routes(callers.of, door.DoorSettings(project=config.project)),
        )
        await stack.enter_async_context(health_served(server_config, lifetime.health))
        server = WebServer(app, server_config, lifetime=lifetime, or_any=or_any)
        try:
            await server.start()
            yield server
        finally:
            await server.stop(0)


def main(environ: Mapping[str, str] | None = None) -> None:
    """Runs the console until SIGTERM. Exits with status 2 and the list of problems when the settings are wrong."""
    try:
        server_config, clients, traced, config = load_all(
            ServerConfig, ClientConfig, TracingConfig, ConsoleConfig, environ=environ
        )
    except ConfigError as error:
        sys.stderr.write(f"console: {error}\n")
        raise SystemExit(EXIT_CONFIG) from None
    logs.configure(server_config.log_level)
    with exported("console", traced):
        # It halves what the door adds to an answer (`make bench-door`).
        uvloop.run(_serve(config, server_config, ClientFactory(clients)))


async def _serve(config: ConsoleConfig, server_config: ServerConfig, clients: ClientFactory) -> None:
    registry = make_registry("console")
    with metrics_served(server_config, registry):
        async with opened(config, server_config, clients=clients, registry=registry) as server:
            await server.serve_until_signal()


if __name__ == "__main__":
    main()
