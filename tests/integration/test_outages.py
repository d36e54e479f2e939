"""A data service whose S3 server refuses it, is away, or stops: not ready or unavailable, with the reason."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from omnialign.errors import (
    Unavailable,
)
from tests.integration.data_service import IMAGE, NAME, png_bytes, record_ids, serve_data, text_records
from tests.s3_server import S3Server


async def refused(tmp_path: Path, **settings: Any) -> Unavailable:
    """What calls of a service say that cannot use its storage."""
    async with serve_data(tmp_path, **settings) as client:
        with pytest.raises(Unavailable) as caught:
            await client.get_dataset(NAME)
        return caught.value


async def test_wrong_credentials_leave_the_service_not_ready_with_the_reason(
    s3: S3Server, on_s3: dict[str, Any], tmp_path: Path
) -> None:
    with s3.credentials(secret="not-the-secret"):
        error = await refused(tmp_path, **on_s3)
    assert (error.reason, error.metadata["cause"]) == ("NOT_READY", "S3_CREDENTIALS_REFUSED")
    assert "not-the-secret" not in error.message


async def test_a_missing_bucket_leaves_the_service_not_ready_with_the_reason(
    s3: S3Server, on_s3: dict[str, Any], tmp_path: Path
) -> None:
    error = await refused(tmp_path, **on_s3 | {"objects_url": "s3://no-such-bucket/x"})
    assert (error.reason, error.metadata["cause"]) == ("NOT_READY", "S3_BUCKET_MISSING")


async def test_a_certificate_that_is_not_trusted_is_named(
    on_s3: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SSL_CERT_FILE", raising=False)
    error = await refused(tmp_path, **on_s3 | {"s3_ca_file": None})
    assert error.metadata["cause"] == "S3_CERTIFICATE_UNTRUSTED"


@pytest.mark.slow
async def test_a_server_that_stops_gives_unavailable_and_the_service_recovers(tmp_path: Path) -> None:
    server = S3Server()
    try:
        with server.credentials():
            server.start()
            async with serve_data(tmp_path, **server.settings("x")) as client:
                await client.create_dataset("prompts")
                await client.append_records(NAME, text_records(10))
                media = await client.upload_media(png_bytes(), modality=IMAGE)
                await asyncio.to_thread(server.stop)
                for call in (
                    client.get_media(media.sha256, deadline_seconds=30),
                    client.append_records(NAME, text_records(20), deadline_seconds=30),
                    client.commit_version(NAME),
                ):
                    with pytest.raises(Unavailable) as caught:
                        await call
                    assert caught.value.reason == "S3_UNAVAILABLE"
                await asyncio.to_thread(server.start)
                assert await client.get_media(media.sha256) == png_bytes()
                await client.append_records(NAME, text_records(20))
                assert await record_ids(client, NAME) == [record.id for record in text_records(20)]
    finally:
        server.close()


async def test_a_service_that_starts_before_its_server_serves_when_it_is_there(tmp_path: Path) -> None:
    server = S3Server()
    try:
        with server.credentials():
            async with serve_data(tmp_path, **server.settings("x")) as client:
                with pytest.raises(Unavailable) as caught:
                    await client.get_dataset(NAME)
                assert caught.value.metadata["cause"] == "S3_UNAVAILABLE"
                await asyncio.to_thread(server.start)
                async with asyncio.timeout(60):
                    while True:
                        try:
                            await client.create_dataset("prompts")
                        except Unavailable:
                            await asyncio.sleep(0.1)
                        else:
                            break
    finally:
        server.close()
