"""How many datasets a project may have, and how many bytes it may store."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from omnialign.client import AsyncClient
from omnialign.errors import ResourceExhausted
from omnialign.media import write_image
from omnialign.v1 import content_pb2
from services.data.__main__ import wire
from services.data.config import DataConfig
from services.runtime.config import ServerConfig
from services.runtime.limits import Quotas
from services.runtime.server import Server
from tests.services.data.test_models import model

Serve = Callable[[str], AbstractAsyncContextManager[tuple[AsyncClient, AsyncClient]]]


@pytest.fixture
def serve(tmp_path: Path) -> Serve:
    """Starts a data service with quotas; gives a client of each of two projects, `default` and `other`."""

    @asynccontextmanager
    async def start(quotas: str) -> AsyncIterator[tuple[AsyncClient, AsyncClient]]:
        (tmp_path / "quotas").write_text(quotas)
        server = Server(ServerConfig(), name="data")
        server.quotas = Quotas(tmp_path / "quotas")
        async with wire(server, DataConfig(root=tmp_path / "data")):
            await server.start()
            server.set_serving()
            async with AsyncClient(server.address) as client, AsyncClient(server.address, project="other") as other:
                yield client, other
            await server.stop(0)

    return start


def picture(seed: int) -> bytes:
    """A picture of about 3 kB."""
    return write_image(np.random.default_rng(seed).integers(0, 255, (32, 32, 3), dtype=np.uint8))


def pictures(folder: Path, count: int) -> Path:
    """A file with a question about each of `count` pictures."""
    folder.mkdir()
    rows = [
        {"question": f"what is {seed}?", "image": {"bytes": picture(seed), "path": "x.png"}} for seed in range(count)
    ]
    pq.write_table(pa.Table.from_pylist(rows), folder / "text-image-to-text.parquet")
    return folder


async def refused(call) -> ResourceExhausted:
    with pytest.raises(ResourceExhausted) as caught:
        await call
    assert caught.value.reason == "QUOTA_EXCEEDED"
    return caught.value


async def imported(client: AsyncClient, source: Path, dataset: str = "pictures") -> int:
    return [progress.records_imported async for progress in client.import_dataset(dataset, str(source))][-1]


async def test_one_dataset_too_many_is_refused_until_another_is_deleted(serve):
    async with serve("default: {datasets: 2}\nprojects: {other: {datasets: 0}}") as (client, other):
        first = await client.create_dataset("first")
        await client.create_dataset("second")
        for who in (client, other):
            await refused(who.create_dataset("third"))
        await client.delete_dataset(first.name)
        await client.create_dataset("third")


async def test_media_that_do_not_fit_are_refused_with_the_figures(serve):
    first, second = picture(1), picture(2)
    limit = len(first) + len(second) - 1
    async with serve(f"projects: {{default: {{bytes: {limit}}}}}") as (client, other):
        upload = content_pb2.MODALITY_IMAGE
        await client.upload_media(first, modality=upload)
        await client.upload_media(first, modality=upload)  # what it stores already takes no more room
        await other.upload_media(second, modality=upload)
        error = await refused(client.upload_media(second, modality=upload))
        assert error.metadata == {
            "project": "default",
            "quota": "bytes",
            "limit": str(limit),
            "used": str(len(first)),
            "adding": str(len(second)),
        }
        assert error.message == (
            f"Project 'default' has {len(first):,} bytes of media, models and uploads and may have {limit:,}, so that "
            f"{len(second):,} more do not fit; end or delete some first"
        )


async def test_of_many_media_those_that_fit_are_stored(serve, tmp_path):
    paths = []
    for seed in (1, 2, 1):
        paths.append(tmp_path / str(len(paths)))
        paths[-1].write_bytes(picture(seed))
    async with serve(f"projects: {{default: {{bytes: {len(picture(1)) + 100}}}}}") as (client, _):
        for _ in range(2):  # what it stores already takes no more room
            found = {one.path: one async for one in client.upload_media_files(paths)}
            assert [one.media is not None for one in map(found.get, paths)] == [True, False, True]
            assert found[paths[1]].error.reason == "QUOTA_EXCEEDED"


async def test_an_import_that_does_not_fit_is_refused_until_a_dataset_is_deleted(serve, tmp_path):
    source = pictures(tmp_path / "source", 3)
    limit = sum(len(picture(seed)) for seed in range(4))
    async with serve(f"default: {{bytes: {limit}}}") as (client, _):
        assert await imported(client, source) == 3
        assert await imported(client, source) == 3, "again, which takes no more room"
        assert await imported(client, source, "copy") == 3, "nor do other rows with the same media"
        more = pictures(tmp_path / "more", 6)
        await refused(imported(client, more, "more"))
        assert [dataset.name[-4:] async for dataset in client.list_datasets()] == ["copy", "ures"]
        await client.delete_dataset("projects/default/datasets/pictures")
        await refused(imported(client, more, "more"))
        await client.delete_dataset("projects/default/datasets/copy")
        await refused(imported(client, more, "more"))
        assert await imported(client, pictures(tmp_path / "few", 2), "more") == 2


async def test_uploads_and_models_count_until_they_are_gone(serve, tmp_path):
    folder, other = model(tmp_path / "m"), model(tmp_path / "n")
    (other / "README.md").write_text("Of the same size but for this.")
    size, more = [sum(path.stat().st_size for path in one.iterdir()) for one in (folder, other)]
    async with serve(f"default: {{bytes: {size + more - 1}}}") as (client, _):
        await client.upload_files(folder)
        await client.upload_files(folder)  # the same upload
        await refused(client.upload_files(other))
        version = await client.register_model("base", await client.upload_files(folder))
        await refused(client.upload_files(other))
        await client.delete_model_version(version.name)
        await client.upload_files(other)


async def test_an_upload_makes_room_for_what_is_imported_from_it(serve, tmp_path):
    source = pictures(tmp_path / "source", 3)
    size = sum(path.stat().st_size for path in source.iterdir())
    async with serve(f"default: {{bytes: {size}}}") as (client, _):
        assert await imported(client, await client.upload_files(source, keep_name=True)) == 3
