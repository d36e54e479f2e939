"""Many media in one stream: each is answered, and a stream that breaks goes on with the others."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from omnialign.client import AsyncClient
from omnialign.client.media_uploads import MAX_SENT_BYTES
from omnialign.errors import InvalidArgument
from omnialign.v1 import content_pb2, data_service_pb2
from services.data import media_stream
from services.data.media_stream import batches
from tests.services.data.test_media_store import png

IMAGE, AUDIO = content_pb2.MODALITY_IMAGE, content_pb2.MODALITY_AUDIO
Request, Sent = data_service_pb2.UploadManyMediaRequest, data_service_pb2.SentMedium


def written(folder: Path, **files: bytes) -> list[Path]:
    folder.mkdir(exist_ok=True)
    for name, data in files.items():
        (folder / name).write_bytes(data)
    return [folder / name for name in files]


async def uploaded(client: AsyncClient, paths: list[Path], **options: Any) -> dict[str, str]:
    """The digest, or the reason for which it is refused, by the name of a file."""
    found = client.upload_media_files(paths, **options)
    return {one.path.name: one.media.sha256 if one.media else one.error.reason async for one in found}


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def test_each_file_is_stored_or_refused_for_its_own_reason(client: AsyncClient, tmp_path: Path) -> None:
    large = png(side=800)
    assert len(large) > MAX_SENT_BYTES
    files = {f"{seed}": png(seed) for seed in range(40)} | {"large": large}
    paths = written(tmp_path / "in", **files, same=png(0), cut=png(1)[:-400], text=b"no medium", empty=b"")
    found = await uploaded(client, [*paths, tmp_path / "missing"])
    assert found == {name: sha256(data) for name, data in files.items()} | {
        "same": sha256(png(0)),
        "cut": "MEDIA_TRUNCATED",
        "text": "MEDIA_UNDECODABLE",
        "empty": "MEDIA_EMPTY",
        "missing": "MEDIA_MISSING",
    }
    assert await client.get_media(sha256(png(7))) == png(7)
    assert await client.get_media(sha256(large)) == large


async def test_bytes_that_are_stored_are_not_sent_again(client: AsyncClient, tmp_path: Path) -> None:
    large = png(side=800)
    paths = written(tmp_path / "in", one=png(1), two=png(2), large=large, text=b"no medium")
    assert [one.existed async for one in client.upload_media_files(paths)] == [False] * 4
    (tmp_path / "in" / "two").write_bytes(png(3))
    again = {one.path.name: one async for one in client.upload_media_files(paths)}
    assert {name for name, one in again.items() if one.existed} == {"one", "large"}
    assert {name: one.media.sha256 for name, one in again.items() if one.media} == {
        "one": sha256(png(1)), "two": sha256(png(3)), "large": sha256(large),
    }  # fmt: skip
    other = [one async for one in client.upload_media_files(paths[:1], modality=AUDIO)]
    assert [one.error.reason for one in other if one.error] == ["MEDIA_TYPE_MISMATCH"]


async def test_stored_bytes_that_are_damaged_are_sent_again(client: AsyncClient, tmp_path: Path) -> None:
    paths = written(tmp_path / "in", one=png(1), two=png(2))
    await uploaded(client, paths)
    (pack,) = [path for path in (tmp_path / "state" / "media" / "packs").rglob("*") if path.is_file()]
    data = bytearray(pack.read_bytes())
    data[100] ^= 1  # in the first medium
    pack.write_bytes(data)
    again = {one.path.name: one.existed async for one in client.upload_media_files(paths)}
    assert again == {"one": False, "two": True}
    assert await client.get_media(sha256(png(1))) == png(1)


async def test_media_that_are_offered_stay_as_long_as_if_they_were_sent(tmp_path: Path, serving: Any) -> None:
    paths = written(tmp_path / "in", one=png(1), two=png(2))
    settings = {"root": tmp_path / "state", "garbage_grace_seconds": 0.0}
    async with serving(**settings, unnamed_media_seconds=1e-6) as client:
        await uploaded(client, paths)
    async with serving(**settings) as client:
        assert [one.existed async for one in client.upload_media_files(paths[:1])] == [True]
        assert [done async for done in client.collect_garbage()][-1].removed_count == 1
        assert await client.get_media(sha256(png(1))) == png(1)


async def test_files_of_another_modality_are_refused(client: AsyncClient, tmp_path: Path) -> None:
    paths = written(tmp_path / "in", one=png(1), two=png(2))
    assert set((await uploaded(client, paths, modality=AUDIO)).values()) == {"MEDIA_TYPE_MISMATCH"}


async def test_a_stream_must_begin_with_its_header_and_have_no_other(client: AsyncClient) -> None:
    header = Request(header=data_service_pb2.UploadManyMediaHeader(parent="projects/default"))
    medium = Request(medium=Sent(key="a", data=png(1)))
    for messages, reason in (
        ((medium,), "UPLOAD_HEADER_MISSING"),
        ((header, medium, header), "UPLOAD_HEADER_REPEATED"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            [one async for one in client._transport.converse(client._media.UploadManyMedia, sequence(*messages))]
        assert caught.value.reason == reason


def sequence(*messages: Request) -> Any:
    async def sent() -> AsyncIterator[Request]:
        for message in messages:
            yield message

    return sent


async def test_media_are_answered_while_more_are_to_come(client: AsyncClient) -> None:
    go_on = asyncio.Event()

    async def sent() -> AsyncIterator[Request]:
        yield Request(header=data_service_pb2.UploadManyMediaHeader(parent="projects/default"))
        yield Request(medium=Sent(key="first", data=png(1)))
        await go_on.wait()
        yield Request(medium=Sent(key="second", data=png(2)))

    keys = []
    async for response in client._transport.converse(client._media.UploadManyMedia, sent):
        keys += [kept.key for kept in response.media]
        go_on.set()
    assert keys == ["first", "second"]


async def test_what_the_sender_raises_reaches_it(client: AsyncClient) -> None:
    async def sent() -> AsyncIterator[Request]:
        yield Request(header=data_service_pb2.UploadManyMediaHeader(parent="projects/default"))
        raise RuntimeError("out of ideas")

    with pytest.raises(RuntimeError, match="out of ideas"):
        [one async for one in client._transport.converse(client._media.UploadManyMedia, sent)]


async def test_batches_are_bounded_and_read_ahead_is_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(media_stream, "LINGER_SECONDS", 5.0)
    taken = 0

    async def arriving() -> AsyncIterator[Sent]:
        nonlocal taken
        for number in range(600):
            taken += 1
            yield Sent(key=str(number), data=bytes(1 << 16))

    sizes, ahead = [], []
    async for batch in batches(arriving()):
        sizes.append(len(batch))
        ahead.append(taken - sum(sizes))
    assert sum(sizes) == 600
    assert max(sizes) == media_stream.MAX_BYTES // (1 << 16)
    assert max(ahead) <= media_stream.READ_AHEAD + 1


async def test_a_reader_that_leaves_ends_the_read_ahead() -> None:
    async def endless() -> AsyncIterator[Sent]:
        while True:
            yield Sent(key="x", data=b"x")

    found = batches(endless())
    assert len(await anext(found)) == media_stream.MAX_MEDIA
    await asyncio.wait_for(found.aclose(), 5)
