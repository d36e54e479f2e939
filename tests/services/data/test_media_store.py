"""The media store over gRPC and below: content-addressed, verified, healed, bounded."""

import asyncio
import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnialign.client import AsyncClient
from omnialign.errors import DataLoss, InvalidArgument, NotFound
from omnialign.media import write_image
from omnialign.v1 import content_pb2

IMAGE = content_pb2.MODALITY_IMAGE


def png(seed: int = 0, side: int = 64) -> bytes:
    return write_image(np.random.default_rng(seed).integers(0, 255, (side, side, 3), dtype=np.uint8))


def stored(root: Path, data: bytes) -> Path:
    digest = hashlib.sha256(data).hexdigest()
    return root / "media" / "sha256" / digest[:2] / digest[2:]


async def test_an_upload_comes_back_byte_for_byte(client: AsyncClient, tmp_path: Path) -> None:
    data = png(side=700)  # several chunks
    media = await client.upload_media(data, modality=IMAGE)
    assert (media.mime_type, media.size_bytes, media.modality) == ("image/png", len(data), IMAGE)
    assert media.sha256 == hashlib.sha256(data).hexdigest()
    assert await client.get_media(media.sha256) == data
    assert stored(tmp_path / "state", data).read_bytes() == data


async def test_the_same_bytes_twice_are_one_object(client: AsyncClient, tmp_path: Path) -> None:
    uploads = await asyncio.gather(*(client.upload_media(png(), modality=IMAGE) for _ in range(8)))
    assert len({media.sha256 for media in uploads}) == 1
    media = tmp_path / "state" / "media"
    assert sum(path.is_file() for path in media.rglob("*")) == 1


@pytest.mark.parametrize(
    ("data", "modality", "reason"),
    [
        (b"", IMAGE, "MEDIA_EMPTY"),
        (b"not a picture", IMAGE, "MEDIA_UNDECODABLE"),
        (png(), content_pb2.MODALITY_AUDIO, "MEDIA_TYPE_MISMATCH"),
        (png()[:-400], IMAGE, "MEDIA_TRUNCATED"),
    ],
)
async def test_bad_media_are_refused_and_leave_nothing(
    client: AsyncClient, tmp_path: Path, data: bytes, modality: int, reason: str
) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await client.upload_media(data, modality=modality)
    assert caught.value.reason == reason
    assert not [path for path in (tmp_path / "state" / "media").rglob("*") if path.is_file()]


async def test_an_upload_above_the_limit_is_refused_while_it_comes(serving: Any, tmp_path: Path) -> None:
    async with serving(tmp_path / "state", max_media_bytes=5000) as client:
        with pytest.raises(InvalidArgument) as caught:
            await client.upload_media(png(side=1200), modality=IMAGE)
    assert caught.value.reason == "MEDIA_TOO_LARGE"
    assert not list((tmp_path / "state" / "media" / "incoming").iterdir())


async def test_a_damaged_object_is_data_loss_until_it_is_uploaded_again(client: AsyncClient, tmp_path: Path) -> None:
    media = await client.upload_media(png(), modality=IMAGE)
    path = stored(tmp_path / "state", png())
    path.write_bytes(png()[:-1] + b"?")
    with pytest.raises(DataLoss) as caught:
        await client.get_media(media.sha256)
    assert caught.value.reason == "MEDIA_CORRUPT"
    await client.upload_media(png(), modality=IMAGE)
    assert await client.get_media(media.sha256) == png()


async def test_a_missing_object_is_not_found(client: AsyncClient) -> None:
    with pytest.raises(NotFound) as caught:
        await client.get_media("0" * 64)
    assert caught.value.reason == "MEDIA_NOT_FOUND"
