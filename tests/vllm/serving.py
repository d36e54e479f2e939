"""`vllm serve` as a process of its own, on loopback."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx2

from services.inference.vllm.process import ENVIRONMENT
from tests.processes import kill_group

START_SECONDS = 240
OPTIONS = ("--dtype", "float32", "--enforce-eager", "--block-size", "32", "--max-num-seqs", "64")
MEMORY = ("--kv-cache-memory-bytes", str(128 << 20))


@dataclass
class Served:
    """A server of one model, which `name` is the name of at `base_url`."""

    folder: Path
    name: str
    port: int
    log: Path
    options: Sequence[str] = ()
    process: asyncio.subprocess.Process | None = None

    @property
    def base_url(self) -> str:
        """What model names begin with, after `openai+`."""
        return f"http://127.0.0.1:{self.port}/v1"

    def model(self, *, adapter: str = "") -> str:
        """The model by the name that our engine knows."""
        return f"openai+{self.base_url}#{self.name}" + (f"?adapter={adapter}" if adapter else "")

    async def start(self) -> None:
        """Starts the process and waits until it answers."""
        command = (sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(self.folder))
        place = ("--host", "127.0.0.1", "--port", str(self.port), "--served-model-name", self.name)
        with self.log.open("ab") as log:
            self.process = await asyncio.create_subprocess_exec(
                *command, *place, *OPTIONS, *MEMORY, *self.options,
                stdout=log, stderr=log, start_new_session=True, env={**ENVIRONMENT, **os.environ},
            )  # fmt: skip
        async with asyncio.timeout(START_SECONDS), httpx2.AsyncClient() as client:
            while not await self._answers(client):
                assert self.process.returncode is None, self.log.read_text()[-4000:]
                await asyncio.sleep(0.2)  # it announces nothing

    async def kill(self) -> None:
        """Ends the process and its children at once, as a lost machine would."""
        assert self.process is not None
        if self.process.returncode is None:
            kill_group(self.process.pid)
        await self.process.wait()

    async def _answers(self, client: httpx2.AsyncClient) -> bool:
        try:
            return (await client.get(f"{self.base_url}/models")).status_code == 200
        except httpx2.TransportError:
            return False


@asynccontextmanager
async def serve(folder: Path, *, log: Path, options: Sequence[str] = ()) -> AsyncIterator[Served]:
    """A server that runs while this lasts."""
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))
        port = place.getsockname()[1]
    served = Served(folder, folder.name, port, log, options)
    try:
        await served.start()
        yield served
    finally:
        await served.kill()
