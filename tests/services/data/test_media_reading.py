"""Records with their media in one stream, and many media by digest: in order, verified, each failing alone."""

import asyncio
import hashlib
import os
from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from omnialign.client import AsyncClient, Client, media_files
from omnialign.content import content
from omnialign.errors import DataLoss, InvalidArgument, NotFound
from omnialign.sealed_files import is_sealed, seal
from omnialign.v1 import content_pb2, data_service_pb2, data_service_pb2_grpc, record_pb2
from services.data.bulk_media import FIRST_LOOKED_UP as FIRST
from services.data.media_store import MediaStore
from services.data.objects import LocalObjectStore
from tests.services.data.test_media_store import png, stored

IMAGE = content_pb2.MODALITY_IMAGE
SMALL, LARGE = (
    [png(seed, side=24) for seed in range(12)],
    [png(50 + seed, side=800) for seed in range(3)],
)  # LARGE > 1 MiB
SERVE = dict[str, Any]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture(params=[False, True], ids=["stream", "links"])
async def reader(request: pytest.FixtureRequest, serving: Any, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    async with serving(tmp_path / "state", file_links=request.param) as found:
        yield found


async def upload(client: AsyncClient, *media: bytes) -> list[content_pb2.Media]:
    return [await client.upload_media(data, modality=IMAGE) for data in media]


async def write(client: AsyncClient, media: list[content_pb2.Media]) -> str:
    """A dataset in which each record names a medium of its own and the first one."""
    dataset = await client.create_dataset("pictures")
    records = [
        record_pb2.Record(id=f"r{index:03d}", subtask="ti2t", prompt=content("What?", medium, media[0]))
        for index, medium in enumerate(media)
    ]
    await client.append_records(dataset.name, records)
    return dataset.name


async def test_records_come_in_order_with_their_media(reader: AsyncClient) -> None:
    media = [*SMALL, *LARGE]
    name = await write(reader, await upload(reader, *media))
    found = [(record.id, dict(read)) async for record, read in reader.stream_records_and_media(name)]
    assert found == [(f"r{i:03d}", {sha256(d): d for d in (data, media[0])}) for i, data in enumerate(media)]
    part = [
        record.id async for record, _ in reader.stream_records_and_media(name, limit=3, ids=["r001", "r004", "r014"])
    ]
    assert part == ["r001", "r004", "r014"]


async def test_media_are_read_in_the_order_asked_for_and_fail_alone(reader: AsyncClient, tmp_path: Path) -> None:
    media = [LARGE[0], *SMALL, LARGE[1]]
    await upload(reader, *media)
    stored(tmp_path / "state", SMALL[3]).write_bytes(SMALL[3][:-1] + b"?")
    stored(tmp_path / "state", SMALL[4]).write_bytes(SMALL[4][:-1])
    stored(tmp_path / "state", LARGE[1]).write_bytes(LARGE[1][:-1] + b"?")
    digests = [sha256(data) for data in media]
    digests.insert(5, "0" * 64)
    found = [one async for one in reader.read_media(digests)]
    assert [digest for digest, _ in found] == digests
    read = dict(found)
    assert isinstance(read.pop("0" * 64), NotFound)
    for damaged in (SMALL[3], SMALL[4], LARGE[1]):
        assert isinstance(read.pop(sha256(damaged)), DataLoss)
    assert read == {sha256(data): data for data in media if sha256(data) in read}
    assert len(read) == 11


async def test_a_medium_that_is_gone_fails_where_it_is_asked_for(reader: AsyncClient, tmp_path: Path) -> None:
    name = await write(reader, await upload(reader, *SMALL[:3]))
    stored(tmp_path / "state", SMALL[1]).unlink()
    found = [media async for _, media in reader.stream_records_and_media(name)]
    assert [len(media) for media in found] == [1, 1, 2]
    with pytest.raises(NotFound) as caught:
        found[1][sha256(SMALL[1])]
    assert caught.value.reason == "MEDIA_NOT_FOUND"
    assert list(found[1].errors) == [sha256(SMALL[1])]


async def test_a_medium_that_many_records_name_is_sent_once(client: AsyncClient) -> None:
    media = await upload(client, *SMALL)
    name = await write(client, media)
    request = data_service_pb2.StreamRecordsRequest(source=name, media=data_service_pb2.MediaDelivery())
    stub = data_service_pb2_grpc.DataServiceStub(client._transport.channel)
    sent = [item.media.sha256 async for answer in stub.StreamRecords(request) for item in answer.media]
    assert sent == [medium.sha256 for medium in media]


async def test_no_message_is_much_above_a_mebibyte(client: AsyncClient) -> None:
    media = await upload(client, *LARGE, *SMALL)
    stub = data_service_pb2_grpc.DataServiceStub(client._transport.channel)
    request = data_service_pb2.ReadMediaRequest(parent="projects/default", sha256s=[m.sha256 for m in media])
    sizes = [answer.ByteSize() async for answer in stub.ReadMedia(request)]
    assert max(sizes) < 1_200_000
    limited = data_service_pb2.MediaDelivery(inline_bytes=10_000)
    request.delivery.CopyFrom(limited)
    items = [item async for answer in stub.ReadMedia(request) for item in answer.media]
    assert [bool(item.data) for item in items] == [False] * 3 + [True] * 12


@pytest.mark.parametrize("digests", [[], ["x"], ["../../etc/passwd"], ["0" * 64, "0" * 64], ["0" * 64] * 10_001])
async def test_hostile_digests_are_refused(client: AsyncClient, digests: list[str]) -> None:
    request = data_service_pb2.ReadMediaRequest(parent="projects/default", sha256s=digests)
    with pytest.raises(InvalidArgument):
        async for _ in client._transport.stream(client._bulk.ReadMedia, request):
            raise AssertionError


async def test_streams_that_are_left_early_keep_no_threads_and_read_no_further(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    media = await upload(client, *(png(seed, side=290) for seed in range(60)))  # of 250 KB each
    name, reads = await write(client, media), list[int]()
    read_ranges = LocalObjectStore.read_ranges

    def counted(self: LocalObjectStore, key: str, ranges: Sequence[tuple[int, int]]) -> list[bytes]:
        reads.append(len(ranges))
        return read_ranges(self, key, ranges)

    monkeypatch.setattr(LocalObjectStore, "read_ranges", counted)
    for _ in range(20):  # more than there are threads
        async with aclosing(client._record_batches(name, links=False)) as batches:
            await anext(batches)
            for _ in range(3):
                await client.get_dataset(name)  # time for a stream that would not wait for its reader
    assert sum(reads) < 20 * 45
    assert len([record async for record, _ in client.stream_records_and_media(name)]) == 60


async def test_a_dataset_of_another_project_is_not_found(client: AsyncClient) -> None:
    await write(client, await upload(client, *SMALL[:1]))
    with pytest.raises(NotFound):
        await anext(aiter(client.stream_records_and_media("projects/other/datasets/pictures")))


async def test_a_stream_goes_on_after_a_record(client: AsyncClient) -> None:
    name = await write(client, await upload(client, *SMALL))
    batches = client._record_batches(name, after_id="r008", limit=2)
    assert [record.id async for batch in batches for record, _ in batch] == ["r009", "r010"]


@pytest.mark.parametrize("after", [1, 2, 3])
async def test_streams_that_break_go_on_where_they_were(
    reader: AsyncClient, monkeypatch: pytest.MonkeyPatch, after: int
) -> None:
    media = [SMALL[0], *LARGE, *SMALL[1:]]
    name, stream = await write(reader, await upload(reader, *media)), reader._transport.stream
    attempts = list[int]()

    async def breaking(
        method: Any, request: Any, *, on_restart: Callable[[], None], position: Callable[[], Any]
    ) -> AsyncIterator[Any]:
        for attempt in range(4):
            attempts.append(attempt)
            async with aclosing(stream(method, request)) as responses:
                received = 0
                async for response in responses:
                    yield response
                    received += 1
                    if received == after and attempt < 3:
                        break
                else:
                    return
            on_restart()

    monkeypatch.setattr(reader._transport, "stream", breaking)
    digests = [sha256(data) for data in media]
    assert [one async for one in reader.read_media(digests, links=False)] == list(zip(digests, media, strict=True))
    records = reader.stream_records_and_media(name, limit=14, links=False)
    found = [(record.id, set(read.values())) async for record, read in records]
    assert found == [(f"r{index:03d}", {data, media[0]}) for index, data in enumerate(media[:14])]
    assert max(attempts) >= 1


async def test_the_synchronous_client_reads_the_same(client: AsyncClient) -> None:
    name = await write(client, await upload(client, *SMALL))

    def read() -> tuple[int, int]:
        with Client(client._transport.address) as other:
            records = list(other.stream_records_and_media(name))
            return len(records), len(dict(other.read_media(sha256(data) for data in SMALL)))

    assert await asyncio.to_thread(read) == (12, 12)


@pytest.fixture
async def linking(serving: Any, tmp_path: Path) -> AsyncIterator[AsyncClient]:
    """A client that reads the files of its service, on a file system that keeps seals."""
    (tmp_path / "probe").write_bytes(b"media")
    with (tmp_path / "probe").open("rb") as file:
        seal(file.fileno())
        if not is_sealed(file.fileno(), os.fstat(file.fileno())):
            pytest.skip("this file system keeps no extended attributes")
    async with serving(tmp_path / "state", file_links=True) as found:
        yield found


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The sizes of what was hashed to verify files."""
    sizes, compute = list[int](), hashlib.sha256

    def counted(data: bytes) -> Any:
        sizes.append(len(data))
        return compute(data)

    monkeypatch.setattr(media_files, "hashlib", SimpleNamespace(sha256=counted))
    return sizes


async def test_media_that_the_service_verified_are_hashed_again_only_when_asked(
    linking: AsyncClient, hashed: list[int]
) -> None:
    references = await upload(linking, *SMALL[:2], LARGE[0])
    rest = [one async for one in linking.read_media(medium.sha256 for medium in references)]
    assert [data for _, data in rest] == [*SMALL[:2], LARGE[0]]
    assert hashed == []
    name = await write(linking, references)
    assert len([record async for record, _ in linking.stream_records_and_media(name)]) == 3
    assert hashed == []
    assert not linking._files._verified, "what is sealed need not be remembered"
    for _ in range(2):
        hashed.clear()
        assert [data async for _, data in linking.read_media([sha256(LARGE[0])], verify=True)] == [LARGE[0]]
        assert hashed == [len(LARGE[0])]
    assert len([record async for record, _ in linking.stream_records_and_media(name, verify=True)]) == 3
    assert len(hashed) == 4


async def test_only_media_that_are_to_be_verified_wait_for_a_thread(
    linking: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    name, threads, to_thread = await write(linking, await upload(linking, *LARGE)), list[Any](), asyncio.to_thread

    async def counted(function: Callable[..., Any], *arguments: Any) -> Any:
        threads.append(function)
        return await to_thread(function, *arguments)

    monkeypatch.setattr(asyncio, "to_thread", counted)
    for verify, num_threads in ((False, 0), (True, 1)):
        found = [data async for _, media in linking.stream_records_and_media(name, verify=verify) for data in media]
        assert len(found) == 5
        assert len(threads) == num_threads


async def test_the_first_media_of_many_are_sent_before_the_last_are_looked_up(
    reader: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    media = await upload(reader, *(png(seed, side=2) for seed in range(400)))
    name, sizes, places = await write(reader, media), list[int](), MediaStore.places

    def counted(self: MediaStore, digests: Iterable[str]) -> Any:
        wanted = list(digests)
        sizes.append(len(set(wanted)))
        return places(self, wanted)

    monkeypatch.setattr(MediaStore, "places", counted)
    found = [(record.id, len(read)) async for record, read in reader.stream_records_and_media(name)]
    assert found == [(f"r{index:03d}", 2 if index else 1) for index in range(400)]
    assert sizes == [FIRST, 2 * FIRST + 1, 400 - 3 * FIRST + 1]  # with the first medium, which all name
    sizes.clear()
    assert len([one async for one in reader.read_media(medium.sha256 for medium in media)]) == 400
    assert sizes == [FIRST, 2 * FIRST, 400 - 3 * FIRST]


async def test_a_file_that_changed_is_hashed_and_one_that_rots_is_found_when_asked(
    linking: AsyncClient, hashed: list[int], tmp_path: Path
) -> None:
    await upload(linking, SMALL[0], LARGE[0])
    for medium in (SMALL[0], LARGE[0]):
        path, digest = stored(tmp_path / "state", medium), sha256(medium)
        kept, rotten = path.stat(), medium[:-1] + b"?"
        path.write_bytes(rotten)
        os.utime(path, ns=(kept.st_atime_ns, kept.st_mtime_ns))  # as on a disk that forgets
        assert [data async for _, data in linking.read_media([digest])] == [rotten]
        assert [type(data) async for _, data in linking.read_media([digest], verify=True)] == [DataLoss]
        hashed.clear()
        path.write_bytes(rotten)
        assert [type(data) async for _, data in linking.read_media([digest])] == [DataLoss]
        assert hashed
        path.write_bytes(medium)
        assert [data async for _, data in linking.read_media([digest])] == [medium]


def test_what_is_put_is_sealed_once_it_is_on_the_disk(tmp_path: Path, linking: AsyncClient) -> None:
    objects = LocalObjectStore(tmp_path / "objects")
    objects.put_bytes("a/first", b"media")
    (tmp_path / "staged").write_bytes(b"media")
    objects.put("a/second", tmp_path / "staged", sha256="", durable=False)
    objects.put_bytes("a/third", b"media")
    assert [_is_sealed(objects.path(f"a/{name}")) for name in ("first", "second", "third")] == [True, False, True]
    objects.path("a/third").unlink()
    objects.sync()
    assert _is_sealed(objects.path("a/second"))


def _is_sealed(path: Path) -> bool:
    with path.open("rb") as file:
        return is_sealed(file.fileno(), os.fstat(file.fileno()))


async def test_a_message_of_links_leads_to_no_more_files_than_a_reader_can_open(linking: AsyncClient) -> None:
    linking._files._max_open = 150
    pictures = [png(seed, side=2) for seed in range(200)]
    references = await upload(linking, *pictures)
    name = await write(linking, references)
    request = data_service_pb2.StreamRecordsRequest(source=name, media=data_service_pb2.MediaDelivery(links=True))
    stub = data_service_pb2_grpc.DataServiceStub(linking._transport.channel)
    counts = [len(answer.files.paths) async for answer in stub.StreamRecords(request)]
    assert len(counts) == 2
    assert max(counts) <= 130
    assert [data async for _, data in linking.read_media(sha256(data) for data in pictures)] == pictures
    assert len(linking._files._files) == 150
