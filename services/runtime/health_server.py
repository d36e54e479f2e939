"""A plaintext port with health alone, for programs whose main port speaks no gRPC: probes ask all alike."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
from grpc_health.v1 import health_pb2_grpc

from services.runtime.config import ServerConfig
from services.runtime.health import Health
from services.runtime.server import OPTIONS


@asynccontextmanager
async def health_served(config: ServerConfig, health: Health) -> AsyncIterator[int]:
    """Answers probes at `config.health_port` while the block runs, and gives the port; 0 without one."""
    if config.health_port is None:
        yield 0
        return
    server = grpc.aio.server(options=OPTIONS)
    health_pb2_grpc.add_HealthServicer_to_server(health, server)
    port: int = server.add_insecure_port(f"{config.host}:{config.health_port}")
    await server.start()
    try:
        yield port
    finally:
        await server.stop(0)
