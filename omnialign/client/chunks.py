"""Cutting records and bytes into messages that travel well: under 1 MiB, and few per message."""

from collections.abc import AsyncIterable, AsyncIterator, Iterable, Iterator

from omnialign.v1 import record_pb2

MAX_CHUNK_BYTES = 1024 * 1024 - 4096  # of payload, with room for the message around it
MAX_CHUNK_RECORDS = 256
MEDIA_CHUNK_BYTES = 256 * 1024

Records = Iterable[record_pb2.Record] | AsyncIterable[record_pb2.Record]


async def chunk_records(records: Records) -> AsyncIterator[list[record_pb2.Record]]:
    """Lists of records, each list small enough for one message; a single larger record is a list of its own."""
    chunk: list[record_pb2.Record] = []
    size = 0
    async for record in _iterate(records):
        record_size = record.ByteSize() + 8
        if chunk and (len(chunk) == MAX_CHUNK_RECORDS or size + record_size > MAX_CHUNK_BYTES):
            yield chunk
            chunk, size = [], 0
        chunk.append(record)
        size += record_size
    if chunk:
        yield chunk


def chunk_bytes(data: bytes) -> Iterator[bytes]:
    """Pieces of `data`, in order; none when it is empty."""
    for start in range(0, len(data), MEDIA_CHUNK_BYTES):
        yield data[start : start + MEDIA_CHUNK_BYTES]


async def _iterate(records: Records) -> AsyncIterator[record_pb2.Record]:
    if isinstance(records, AsyncIterable):
        async for record in records:
            yield record
    else:
        for record in records:
            yield record
