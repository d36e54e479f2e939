"""A door on loopback: a web application of its own over services at an address, and who talks to it."""

import asyncio
import contextlib
from collections.abc import AsyncIterator

import uvicorn
from starlette.applications import Starlette

from omnialign.client import AsyncClient
from services.console.door import DoorSettings, routes


@contextlib.asynccontextmanager
async def serve_door(address: str, settings: DoorSettings | None = None) -> AsyncIterator[str]:
    """Serves the door to the services at an address; gives its base URL."""
    clients: dict[tuple[str, str], AsyncClient] = {}

    def connect(token: str, project: str) -> AsyncClient:
        if (token, project) not in clients:
            clients[token, project] = AsyncClient(address, project=project, token=token or None)
        return clients[token, project]

    app = Starlette(routes=routes(connect, settings))
    config = uvicorn.Config(app, host="127.0.0.1", port=0, log_level="warning", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    socket = config.bind_socket()
    socket.listen()  # callers wait there until the server has started
    serving = asyncio.create_task(server.serve([socket]))
    try:
        yield f"http://127.0.0.1:{socket.getsockname()[1]}/v1"
    finally:
        server.should_exit = True
        await serving
        for client in clients.values():
            await client.close()
