"""Media that go up and down by presigned links of a real S3 server."""

import asyncio
import urllib.error
import urllib.request
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from omnialign.client.media_links import MediaLinks
from omnialign.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
)
from tests.integration.data_service import IMAGE, png_bytes, serve_data, sha256_hex
from tests.s3_server import S3Server


def fetch(s3: S3Server, url: str, data: bytes | None = None) -> bytes:
    """PUTs or GETs with the standard library alone."""
    import ssl

    request = urllib.request.Request(url, data=data, method="GET" if data is None else "PUT")
    with urllib.request.urlopen(request, context=ssl.create_default_context(cafile=str(s3.ca_file))) as answer:
        return answer.read()  # type: ignore[no-any-return]


async def test_media_go_up_and_down_by_links(s3: S3Server, on_s3: dict[str, Any], tmp_path: Path) -> None:
    data = png_bytes(side=300)
    async with serve_data(tmp_path, **on_s3) as client:
        link = await client.create_media_upload(sha256_hex(data), size_bytes=len(data))
        with pytest.raises(FailedPrecondition) as caught:
            await client.complete_media_upload(link.name)
        assert caught.value.reason == "MEDIA_UPLOAD_EMPTY"
        await asyncio.to_thread(fetch, s3, link.url, data)
        with pytest.raises(NotFound):
            await client.get_media(sha256_hex(data))  # nothing is stored before it was proven
        media = await client.complete_media_upload(link.name)
        assert (media.sha256, media.mime_type, media.size_bytes) == (sha256_hex(data), "image/png", len(data))
        assert await client.complete_media_upload(link.name) == media
        down = await client.create_media_download(media.sha256)
        assert await asyncio.to_thread(fetch, s3, down.url) == data == await client.get_media(media.sha256)


@pytest.mark.parametrize(
    ("sent", "reason"),
    [
        (png_bytes(1)[:-1], "MEDIA_SIZE_MISMATCH"),
        (png_bytes(1)[:-1] + b"?", "MEDIA_DIGEST_MISMATCH"),
    ],
)
async def test_other_bytes_than_were_said_are_refused(
    s3: S3Server, on_s3: dict[str, Any], tmp_path: Path, sent: bytes, reason: str
) -> None:
    async with serve_data(tmp_path, **on_s3) as client:
        link = await client.create_media_upload(sha256_hex(png_bytes(1)), size_bytes=len(png_bytes(1)))
        await asyncio.to_thread(fetch, s3, link.url, sent)
        with pytest.raises(InvalidArgument) as caught:
            await client.complete_media_upload(link.name)
        assert caught.value.reason == reason


async def test_bytes_that_do_not_decode_are_refused_at_the_end_of_a_link(
    s3: S3Server, on_s3: dict[str, Any], tmp_path: Path
) -> None:
    async with serve_data(tmp_path, **on_s3) as client:
        link = await client.create_media_upload(sha256_hex(png_bytes()[:-400]), size_bytes=len(png_bytes()[:-400]))
        await asyncio.to_thread(fetch, s3, link.url, png_bytes()[:-400])
        with pytest.raises(InvalidArgument) as caught:
            await client.complete_media_upload(link.name, modality=IMAGE)
        assert caught.value.reason == "MEDIA_TRUNCATED"


async def test_an_expired_link_is_refused_by_the_server(s3: S3Server, on_s3: dict[str, Any], tmp_path: Path) -> None:
    async with serve_data(tmp_path, link_seconds=1, **on_s3) as client:
        media = await client.upload_media(png_bytes(), modality=IMAGE)
        down = await client.create_media_download(media.sha256)
        async with asyncio.timeout(20):
            while True:
                try:
                    await asyncio.to_thread(fetch, s3, down.url)
                except urllib.error.HTTPError as error:
                    assert error.code == 403
                    break
                await asyncio.sleep(0.2)


async def test_local_files_have_no_links(tmp_path: Path) -> None:
    async with serve_data(tmp_path) as client:
        media = await client.upload_media(png_bytes(), modality=IMAGE)
        for call in (client.create_media_upload("0" * 64, size_bytes=5), client.create_media_download(media.sha256)):
            with pytest.raises(FailedPrecondition) as caught:
                await call
            assert caught.value.reason == "PRESIGNING_UNAVAILABLE"


async def test_small_media_lie_in_a_pack_and_a_large_one_comes_by_link(
    on_s3: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = [png_bytes(seed, side=16) for seed in range(30)], png_bytes(99, side=1200)
    answers = {"response_1": "Noise.", "response_2": "Nothing.", "overall_response": 1}
    rows = [{"question": f"What is {i}?", "image": {"bytes": data}} | answers for i, data in enumerate(small)]
    source = tmp_path / "text-image-to-text.parquet"
    pq.write_table(pa.Table.from_pylist(rows), source)
    followed = list[str]()
    read = MediaLinks.read

    def noted(self: MediaLinks, url: str, **wanted: Any) -> bytes | None:
        data = read(self, url, **wanted)
        followed.extend([url] if data else [])
        return data

    monkeypatch.setattr(MediaLinks, "read", noted)
    async with serve_data(tmp_path / "state", **on_s3) as client:
        medium = await client.upload_media(large, modality=IMAGE)
        async for _ in client.import_dataset("small", source.as_uri(), subtask="ti2t"):
            pass
        found = [media async for _, media in client.stream_records_and_media("projects/default/datasets/small")]
        assert {data for media in found for data in media.values()} == set(small)
        assert not followed
        wanted = [sha256_hex(small[3]), medium.sha256, "0" * 64, sha256_hex(small[4])]
        read_media = [data async for _, data in client.read_media(wanted)]
        assert (read_media[:2], read_media[3]) == ([small[3], large], small[4])
        assert isinstance(read_media[2], NotFound)
        assert len(followed) == 1
        link = await client.create_media_download(sha256_hex(small[5]))
        assert "packs" not in link.url
