"""Parts of stored media, for players that seek."""

import io
import wave

import pytest

from omnialign.client import AsyncClient
from omnialign.errors import NotFound
from omnialign.v1 import content_pb2
from services.data.__main__ import wire
from services.data.config import DataConfig
from services.runtime.config import ServerConfig
from services.runtime.server import Server


def sound(frames: int) -> bytes:
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setparams((1, 2, 8000, 0, "NONE", ""))
        file.writeframes(bytes(number % 251 for number in range(2 * frames)))
    return buffer.getvalue()


@pytest.fixture
async def client(tmp_path):
    server = Server(ServerConfig(), name="data")
    async with wire(server, DataConfig(root=tmp_path)):
        await server.start()
        server.set_serving()
        async with AsyncClient(server.address) as found:
            yield found
        await server.stop(0)


async def read(client, sha256, **part):
    messages = [message async for message in client.stream_media(sha256, **part)]
    return messages[0].media, b"".join(message.chunk for message in messages)


@pytest.mark.parametrize(
    ("offset", "limit"), [(0, 1), (44, 0), (100, 7), (262_143, 2), (0, 0), (300_000, 900_000), (262_144, 262_144)]
)
async def test_a_part_is_the_bytes_between_its_ends(client, offset, limit):
    data = sound(400_000)  # four chunks
    stored = await client.upload_media(data, modality=content_pb2.MODALITY_AUDIO)
    medium, found = await read(client, stored.sha256, offset=offset, limit=limit)
    assert medium == stored
    assert found == data[offset : offset + limit if limit else None]


async def test_behind_the_end_there_is_only_what_the_object_is(client):
    stored = await client.upload_media(sound(10), modality=content_pb2.MODALITY_AUDIO)
    assert await read(client, stored.sha256, offset=1 << 62, limit=1) == (stored, b"")


async def test_a_part_of_what_is_not_there_is_not_found(client):
    with pytest.raises(NotFound) as caught:
        await read(client, "0" * 64, offset=1)
    assert caught.value.reason == "MEDIA_NOT_FOUND"
