"""Streams that break more than once: what is waited for anew, and what is asked for again."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import grpc
import pytest

from omnialign.client import AsyncClient, transport
from omnialign.errors import Unavailable
from omnialign.retry import RetryPolicy
from omnialign.v1 import data_service_pb2 as pb
from omnialign.v1.record_pb2 import Record

IDS = [f"r{number:02d}" for number in range(20)]
BROKEN = grpc.aio.AioRpcError(grpc.StatusCode.UNAVAILABLE, grpc.aio.Metadata(), grpc.aio.Metadata(), "gone")


class Stream:
    """A method that streams the records that are asked for, one in a message, and breaks after so many each time."""

    def __init__(self, *lengths: int, heeds: bool = True) -> None:
        self._lengths, self._heeds, self.asked = list(lengths), heeds, list[tuple[str, int]]()

    def __call__(self, request: Any, **options: Any) -> "Call":
        after, limit = (request.after_id, request.limit) if isinstance(request, pb.StreamRecordsRequest) else ("", 0)
        self.asked.append((after, limit))
        ids = [name for name in IDS if name > after or not self._heeds]
        return Call(ids[: limit or None], self._lengths.pop(0) if self._lengths else len(IDS) + 1)


class Call:
    def __init__(self, ids: list[str], length: int) -> None:
        self._ids, self._length = ids, length

    async def __aiter__(self) -> AsyncIterator[Any]:
        for name in self._ids[: self._length]:
            yield pb.StreamRecordsResponse(records=[Record(id=name)])
        if self._length <= len(self._ids):
            raise BROKEN

    def cancel(self) -> None:
        pass


@pytest.fixture
async def read(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Callable[..., Any]]:
    """The ids that a client reads of a stream; after a break that brought nothing new, it tries once more."""
    monkeypatch.setattr(transport, "RESTART_RETRIES", RetryPolicy(base_seconds=0, cap_seconds=0, max_attempts=2))
    async with AsyncClient("127.0.0.1:1") as client:

        async def read(stream: Stream, *, limit: int = 0) -> list[str]:
            client._datasets = type("Stub", (), {"StreamRecords": stream, "StreamQuarantine": stream})
            if limit < 0:
                return [record.id async for record in client.stream_quarantine("d")]
            return [record.id async for record in client.stream_records("d", limit=limit)]

        yield read


async def test_it_goes_on_after_the_last_record_however_often_it_breaks(read: Callable[..., Any]) -> None:
    stream = Stream(10, 3, 1, 1)
    assert await read(stream) == IDS
    assert [after for after, _ in stream.asked] == ["", "r09", "r12", "r13", "r14"]


@pytest.mark.parametrize("lengths", [(4,), (4, 5), (7,)])
async def test_no_more_records_come_than_were_asked_for(read: Callable[..., Any], lengths: tuple[int, ...]) -> None:
    assert await read(Stream(*lengths), limit=7) == IDS[:7]


async def test_a_service_that_begins_anew_gives_no_record_twice(read: Callable[..., Any]) -> None:
    assert await read(Stream(5, 12, heeds=False), limit=15) == IDS[:15]
    assert await read(Stream(5, 12), limit=-1) == IDS


async def test_one_that_breaks_again_without_a_new_record_is_given_up(read: Callable[..., Any]) -> None:
    with pytest.raises(Unavailable):
        await read(Stream(5, 0, 0))
    with pytest.raises(Unavailable):
        await read(Stream(5, 3, 3, heeds=False))
