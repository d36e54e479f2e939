"""Two data services on one S3 server and one PostgreSQL: neither undoes what the other did."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from omnialign import names
from omnialign.client import AsyncClient
from omnialign.errors import Aborted, NotFound
from services.migrate import migrate
from tests.integration.data_service import IMAGE, NAME, png_bytes, record_ids, serve_data, text_records, write_model
from tests.s3_server import S3Server

Pair = tuple[AsyncClient, AsyncClient]


@pytest.fixture
async def pair(s3: S3Server, postgres_url: str, tmp_path: Path) -> AsyncIterator[Pair]:
    """Clients of two replicas."""
    assert await migrate({"OMNIALIGN_DATA_DATABASE_URL": postgres_url}, deadline_seconds=60) == 0
    settings = s3.settings(uuid.uuid4().hex) | {"database_url": postgres_url, "compact_fragments": 4}
    async with AsyncExitStack() as stack:
        opening = [serve_data(tmp_path / name, **settings) for name in ("one", "other")]
        one, other = [await stack.enter_async_context(service) for service in opening]
        yield one, other


async def test_what_one_replica_stored_the_other_reads(pair: Pair, tmp_path: Path) -> None:
    one, other = pair
    media = await one.upload_media(png_bytes(), modality=IMAGE)
    assert await other.get_media(media.sha256) == png_bytes()
    upload = await one.upload_files(write_model(tmp_path / "model"))
    version = await other.register_model("base", upload)
    assert await one.download_model(version.name, tmp_path / "fetched") == version


async def test_appends_and_commits_of_two_replicas_lose_nothing_and_double_nothing(pair: Pair) -> None:
    await pair[0].create_dataset("prompts")

    async def write(writer: int) -> None:
        client = pair[writer % 2]
        await client.append_records(NAME, text_records(40, f"w{writer}", first=writer * 20))
        for _ in range(5):
            try:
                await client.commit_version(NAME)
                return
            except Aborted:  # the other replica took the number: the caller tries again
                continue
        raise AssertionError("no commit went through")

    await asyncio.gather(*(write(writer) for writer in range(6)))
    assert (
        await record_ids(pair[0], NAME)
        == await record_ids(pair[1], NAME)
        == [record.id for record in text_records(140)]
    )
    versions = [version async for version in pair[0].list_dataset_versions(NAME)]
    for version in versions:
        assert len(await record_ids(pair[1], version.name)) == version.record_count
    assert [int(names.id_of(version.name)) for version in versions] == list(range(len(versions), 0, -1))


async def test_a_dataset_that_one_replica_deletes_is_gone_and_begins_empty_for_the_other(pair: Pair) -> None:
    one, other = pair
    await one.create_dataset("prompts")
    await other.append_records(NAME, text_records(5))
    await one.delete_dataset(NAME)
    with pytest.raises(NotFound):
        await other.append_records(NAME, text_records(1))
    await other.create_dataset("prompts")
    assert await record_ids(one, NAME) == []
