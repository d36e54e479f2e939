"""A data service on a real port, as people's files reach it, and files to mutate."""

import io
import json
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Any

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from examples.tinyworld import dataset
from omnialign.client import AsyncClient
from omnialign.media import write_audio, write_video
from omnialign.v1 import content_pb2
from services.data.__main__ import wire
from services.data.config import DataConfig
from services.runtime.config import ServerConfig
from services.runtime.server import Server

IMAGE, AUDIO, VIDEO = content_pb2.MODALITY_IMAGE, content_pb2.MODALITY_AUDIO, content_pb2.MODALITY_VIDEO


@pytest.fixture
async def address(tmp_path: Path) -> AsyncIterator[str]:
    server = Server(ServerConfig(), name="data")
    async with AsyncExitStack() as stack:
        await stack.enter_async_context(wire(server, DataConfig(root=tmp_path / "state")))
        await server.start()
        stack.push_async_callback(server.stop, 0)
        server.set_serving()
        yield server.address


@pytest.fixture
async def client(address: str) -> AsyncIterator[AsyncClient]:
    async with AsyncClient(address, project="default") as found:
        yield found


@pytest.fixture(scope="session")
def tinyworld(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small dataset in the schemas of all eight subsets, with real media."""
    folder = tmp_path_factory.mktemp("tinyworld") / "data"
    dataset.write(folder, seed=0, sizes=dataset.Sizes(train=2, prompts=0, validation=0, test=0))
    return folder


@pytest.fixture(scope="session")
def rows(tinyworld: Path) -> dict[Path, list[dict[str, Any]]]:
    """The rows of the subsets that JSON can hold, by the file that they are from."""
    found = {path: json.loads(path.read_text()) for path in sorted(tinyworld.glob("*/*.json"))}
    (text_to_text,) = tinyworld.glob("text-to-text/*.parquet")
    return found | {text_to_text: pq.read_table(text_to_text).to_pylist()}


@pytest.fixture(scope="session")
def media_files() -> list[tuple[int, bytes]]:
    """Small files of many types, each with its modality."""
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), dtype=np.uint8)
    image, frames = Image.fromarray(pixels), np.stack([pixels] * 4)
    sine = np.sin(np.arange(2000) / 9).astype(np.float32)
    found = [(AUDIO, write_audio(sine, 8000)), (VIDEO, write_video(frames, 4))]
    for kind, options in (
        ("PNG", {}),
        ("JPEG", {}),
        ("JPEG", {"progressive": True}),
        ("GIF", {"save_all": True, "append_images": [image.rotate(90)]}),
        ("WEBP", {}),
    ):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        found.append((IMAGE, buffer.getvalue()))
    found += [(AUDIO, _sound(*names)) for names in (("flac", "flac"), ("mp3", "libmp3lame"), ("ogg", "libopus"))]
    return found


def _sound(container: str, codec: str) -> bytes:
    buffer = io.BytesIO()
    with av.open(buffer, "w", format=container) as output:
        stream = output.add_stream(codec, rate=48000, layout="mono")
        samples = (np.sin(np.arange(9600) / 20) * 20000).astype(np.int16).reshape(1, -1)
        frame = av.AudioFrame.from_ndarray(samples, format="s16", layout="mono")
        frame.sample_rate = 48000
        converter = av.AudioResampler(format=stream.format.name, frame_size=stream.frame_size)
        for converted in (*converter.resample(frame), *converter.resample(None)):
            for packet in stream.encode(converted):
                output.mux(packet)
        for packet in stream.encode(None):
            output.mux(packet)
    return buffer.getvalue()
