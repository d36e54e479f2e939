"""A door on loopback: a web application of its own over services at an address, and who talks to it."""

import asyncio
import contextlib
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import uvicorn
from starlette.applications import Starlette

from examples.tinyworld.pretrain import FOLDER
from omnialign.client import AsyncClient, Client
from services.console.door import DoorSettings, routes

START = "from omnialign.cli.main import main; main()"


@contextlib.contextmanager
def omnialign_up(root: Path, *options: str, **environment: str) -> Iterator[tuple[str, str]]:
    """`omnialign up` with the tiny world's model as `tiny`; gives the services' address and the door's base URL."""
    words = [sys.executable, "-c", START, "up", "--json", "--port", "0", "--root", str(root), *options]
    with subprocess.Popen(words, env=os.environ | environment, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            found = json.loads(process.stdout.readline())
            with Client(found["address"]) as client:
                client.register_model("tiny", FOLDER.absolute().as_uri())
            yield found["address"], f"{found['console']}/v1"
        finally:
            process.terminate()


@contextlib.asynccontextmanager
async def serve_door(address: str, settings: DoorSettings | None = None) -> AsyncIterator[str]:
    """Serves the door to the services at an address, on a free port; gives its base URL."""
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
