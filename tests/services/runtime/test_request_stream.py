"""The messages of one call: read in turns, waited for with a deadline, and read to their end."""

import asyncio

import pytest

from omnialign.errors import DeadlineExceeded
from services.runtime import request_stream
from services.runtime.request_stream import RequestStream


async def messages(*values, then=None):
    for value in values:
        yield value
    if then is not None:
        await then.wait()
        yield b"late"


async def test_the_first_message_can_be_looked_at_and_is_read_again():
    stream = RequestStream(messages(b"a", b"b"))
    assert await stream.first(seconds=5) == b"a"
    assert [each async for each in stream] == [b"a", b"b"]


async def test_an_empty_stream_has_no_first_message():
    assert await RequestStream(messages()).first(seconds=5) is None


async def test_a_first_message_that_does_not_come_is_said_and_not_waited_for_again(monkeypatch):
    monkeypatch.setattr(request_stream, "MAX_SILENCE_SECONDS", 0.01)
    stream = RequestStream(messages(then=asyncio.Event()))
    with pytest.raises(DeadlineExceeded) as caught:
        await stream.first(seconds=0.01)
    assert caught.value.reason == "FIRST_MESSAGE_LATE"
    await stream.drain()
    await stream.close()


async def test_a_message_is_not_lost_when_the_task_that_waits_for_it_is_cancelled():
    there = asyncio.Event()
    stream = RequestStream(messages(b"a", then=there))
    assert await anext(stream) == b"a"
    reader = asyncio.create_task(anext(stream))
    await asyncio.sleep(0)
    reader.cancel()
    await asyncio.gather(reader, return_exceptions=True)
    there.set()
    assert [each async for each in stream] == [b"late"]


async def test_a_refused_call_is_read_to_its_end():
    read = []

    async def noted():
        for chunk in (b"first", b"last"):
            read.append(chunk)
            yield chunk

    await RequestStream(noted()).drain()
    assert read == [b"first", b"last"]


async def test_what_a_client_writes_without_end_is_not_read_without_end(monkeypatch):
    monkeypatch.setattr(request_stream, "MAX_DRAIN_BYTES", 1000)

    async def endless():
        while True:
            yield bytes(100)

    await asyncio.wait_for(RequestStream(endless()).drain(), timeout=10)


async def test_a_client_that_hangs_up_does_not_change_how_its_call_ends():
    async def broken():
        yield b"first"
        raise RuntimeError("the connection is gone")

    await RequestStream(broken()).drain()
