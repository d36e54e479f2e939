"""What the tests of the data service share: a service on either kind of object store, and things to put into it."""

import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.media import write_image
from omnialign.v1 import content_pb2, record_pb2
from services.data.__main__ import wire
from services.data.config import DataConfig
from services.runtime.config import ServerConfig
from services.runtime.server import Server

IN_OUT = ("in", "out")
IMAGE = content_pb2.MODALITY_IMAGE
NAME = "projects/default/datasets/prompts"
Serve = Callable[..., AbstractAsyncContextManager[AsyncClient]]


@asynccontextmanager
async def serve_data(root: Path, *, server: Server | None = None, **settings: Any) -> AsyncIterator[AsyncClient]:
    """A client of a data service with these settings."""
    server = server or Server(ServerConfig(), name="data")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(wire(server, DataConfig(root=root, **settings)))
        await server.start()
        stack.push_async_callback(server.stop, 0)
        server.set_serving()
        yield await stack.enter_async_context(AsyncClient(server.address))


def png_bytes(seed: int = 0, side: int = 64) -> bytes:
    return write_image(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8))


def sha256_hex(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def text_records(count: int, text: str = "x", first: int = 0) -> list[record_pb2.Record]:
    found = range(first, first + count)
    return [record_pb2.Record(id=f"r{number:05d}", subtask="t2t", prompt=content(text)) for number in found]


async def record_ids(client: AsyncClient, source: str) -> list[str]:
    return [record.id async for record in client.stream_records(source)]


def write_model(folder: Path, seed: int = 0, kilobytes: int = 4) -> Path:
    (folder / "deep").mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    (folder / "deep" / "tokens é.json").write_text("{}")
    (folder / "empty").write_bytes(b"")
    tensor = np.random.default_rng(seed).random((kilobytes, 256), dtype=np.float32)
    save_file({"a": tensor}, folder / "model.safetensors")
    return folder
