"""Media at hand: one download for all who want an object, a bound on what is kept, stored answers."""

import asyncio
import hashlib

import pytest

from omnialign.client.bulk_media import MediaByDigest
from omnialign.content import content
from omnialign.errors import NotFound
from omnialign.modeling.inputs import MediaBytes
from omnialign.v1 import content_pb2
from services.inference.media import MediaClient
from tests.services.inference.model_factory import until


class Source:
    """Objects in memory, counting the calls."""

    def __init__(self, *objects):
        self.objects = {hashlib.sha256(data).hexdigest(): data for data in objects}
        self.reads, self.writes, self.streams = 0, 0, 0
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetch_media(self, digests):
        self.reads += len(digests)
        self.streams += 1
        await self.gate.wait()
        found = MediaByDigest({digest: self.objects[digest] for digest in digests if digest in self.objects})
        found.errors = {
            digest: NotFound("Not stored.", reason="MEDIA_NOT_FOUND") for digest in digests if digest not in found
        }
        return found

    async def upload_media(self, data, *, modality, mime_type=""):
        self.writes += 1
        sha256 = hashlib.sha256(data).hexdigest()
        self.objects[sha256] = data
        return content_pb2.Media(modality=modality, mime_type=mime_type, sha256=sha256, size_bytes=len(data))


def media(data):
    sha256 = hashlib.sha256(data).hexdigest()
    return content_pb2.Media(modality=content_pb2.MODALITY_IMAGE, mime_type="image/png", sha256=sha256)


async def test_an_object_is_downloaded_once_for_all_messages_that_hold_it():
    source = Source(b"a", b"b")
    reader = MediaClient(source)
    messages = [content("look", media(b"a"), media(b"b"), media(b"a")), content(media(b"a"))]
    found = await asyncio.gather(*(reader.fetch(messages) for _ in range(3)))
    assert set(found[0].values()) == {b"a", b"b"}
    assert found[0] == found[1] == found[2]
    assert (source.reads, source.streams) == (2, 1)


async def test_what_is_kept_is_bounded_and_the_oldest_leaves():
    source = Source(b"aaaa", b"bbbb", b"cccc", b"far too long")
    reader = MediaClient(source, capacity_bytes=8)
    for data in (b"aaaa", b"bbbb", b"far too long", b"aaaa", b"cccc"):
        assert await reader.get(media(data).sha256) == data
    assert source.reads == 4
    await reader.get(media(b"aaaa").sha256)
    assert source.reads == 4
    await reader.get(media(b"bbbb").sha256)
    assert source.reads == 5


async def test_a_download_survives_one_caller_and_a_failure_is_not_kept():
    source = Source(b"a")
    reader = MediaClient(source)
    source.gate.clear()
    leaver, stayer = (asyncio.create_task(reader.get(media(b"a").sha256)) for _ in range(2))
    await until(lambda: source.reads)
    leaver.cancel()
    source.gate.set()
    assert await stayer == b"a"
    for _ in range(2):
        with pytest.raises(NotFound):
            await reader.get(media(b"none").sha256)
    assert source.reads == 3


async def test_an_answer_is_stored_once_and_read_back_without_a_call():
    source = Source()
    reader = MediaClient(source)
    answer = ("here:", MediaBytes(content_pb2.MODALITY_AUDIO, b"RIFF"))
    stored = await reader.store(answer)
    assert await reader.store(answer) == stored
    assert stored.parts[0].text == "here:"
    assert stored.parts[1].media.mime_type == "audio/wav"
    assert list((await reader.fetch([stored])).values()) == [b"RIFF"]
    assert (source.writes, source.reads) == (1, 0)
