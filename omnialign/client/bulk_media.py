"""Many media in one stream, alone or with the records that name them: read ahead, and verified by their digests.

Where the service says in which files media lie, or gives links to its object store, they are read from there; what
cannot be comes through the service. Media in files that are sealed were verified when they were stored.
"""

import asyncio
import hashlib
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from itertools import islice
from types import MappingProxyType
from typing import Any, TypeAlias

from omnialign.client.media_files import FileRange, MediaFiles
from omnialign.client.media_links import MediaLinks
from omnialign.client.transport import ServiceCalls, Transport
from omnialign.errors import DataLoss, NotFound, OmnialignError, from_status
from omnialign.media_window import MediaWindow, media_named_by
from omnialign.read_ahead import read_ahead
from omnialign.v1 import content_pb2, data_service_pb2, data_service_pb2_grpc, record_pb2

INLINE_BYTES = 4 * 1024 * 1024
"""Media of more bytes are read from a link, where there is one."""
HERE_BYTES = 4 * 1024 * 1024
"""Up to so many bytes of media are verified on the event loop, which takes about two milliseconds."""
REQUEST_MEDIA = 2000
"""Media that one request asks for."""

Bytes: TypeAlias = bytes | OmnialignError
Found: TypeAlias = bytes | FileRange | OmnialignError | None
"""A medium, or where to read it, or why it cannot be read; None where its bytes are to be read through the service."""
Item = data_service_pb2.MediaItem
Response = data_service_pb2.StreamRecordsResponse | data_service_pb2.ReadMediaResponse


class MediaByDigest(dict[str, bytes]):
    """Media by digest. Asking for one that could not be read raises why: NotFound or DataLoss."""

    errors: Mapping[str, OmnialignError] = MappingProxyType({})
    """Why media could not be read."""

    def __missing__(self, sha256: str) -> bytes:
        raise self.errors.get(sha256) or KeyError(sha256)


RecordWithMedia: TypeAlias = tuple[record_pb2.Record, MediaByDigest]


class RecordBatch:
    """Some records with their media. Large media in files are read one record at a time, while it is iterated over."""

    def __init__(self, found: Sequence[tuple[record_pb2.Record, dict[str, Found]]]) -> None:
        self.found = found

    def __iter__(self) -> Iterator[RecordWithMedia]:
        for record, media in self.found:
            read = MediaByDigest()
            for digest, data in media.items():
                _keep(read, digest, _in_memory(data, digest))
            yield record, read
            del read  # so that the memory of large media is there for the next


class BulkMediaCalls(ServiceCalls):
    """Reading many media."""

    def __init__(self, transport: Transport, *, project: str) -> None:
        super().__init__(transport, project=project)
        self._bulk = data_service_pb2_grpc.DataServiceStub(transport.channel)
        self._files, self._links = MediaFiles(), MediaLinks()

    async def read_media(
        self, digests: Iterable[str], *, links: bool = True, verify: bool = False
    ) -> AsyncIterator[tuple[str, Bytes]]:
        """Yields media as (digest, bytes), each once, in the order given, verified.

        For one that cannot be read there is an error in place of the bytes: NotFound MEDIA_NOT_FOUND, or DataLoss
        MEDIA_CORRUPT. With `links`, they are read from the service's files or its object store where it says how. Files
        that have not changed since the service verified them are verified again only with `verify`. A stream that
        breaks goes on where it was.
        """
        async with aclosing(self._media_batches(digests, links=links, verify=verify)) as batches:
            async for batch in batches:
                for found in batch:
                    yield found

    async def fetch_media(self, digests: Iterable[str]) -> MediaByDigest:
        """`read_media` for as many as fit into memory. Asking the answer for one that cannot be read raises why."""
        found = MediaByDigest()
        async with aclosing(self._media_batches(digests)) as batches:
            async for batch in batches:
                for digest, data in batch:
                    _keep(found, digest, data)
        return found

    async def stream_records_and_media(
        self,
        source: str,
        *,
        subtasks: Sequence[str] = (),
        splits: Sequence[str] = (),
        ids: Sequence[str] = (),
        shard_index: int = 0,
        shard_count: int = 0,
        limit: int = 0,
        links: bool = True,
        verify: bool = False,
    ) -> AsyncIterator[RecordWithMedia]:
        """Yields the records of a dataset or of a version, ordered by id, each with the bytes of its media by digest.

        Takes what `stream_records` takes. Bytes are verified; asking for a medium that cannot be read raises why, and
        its `errors` tell. `links` and `verify` are as in `read_media`. A stream that breaks goes on after the last
        record.
        """
        batches = self._record_batches(
            source,
            subtasks=subtasks,
            splits=splits,
            ids=ids,
            shard_index=shard_index,
            shard_count=shard_count,
            limit=limit,
            links=links,
            verify=verify,
        )
        async with aclosing(batches):
            async for batch in batches:
                for found in batch:
                    yield found

    async def _media_batches(
        self, digests: Iterable[str], *, links: bool = True, verify: bool = False
    ) -> AsyncGenerator[list[tuple[str, Bytes]], None]:
        """`read_media` in lists, as the media come."""
        wanted = iter(dict.fromkeys(digests))
        while some := list(islice(wanted, REQUEST_MEDIA)):
            request = data_service_pb2.ReadMediaRequest(
                parent=self.parent, sha256s=some, delivery=_delivery(links=links)
            )
            async with aclosing(read_ahead(self._media_read(request, verify=verify))) as batches:
                async for batch in batches:
                    yield await self._filled(batch) if links else _all(batch)

    async def _record_batches(
        self, source: str, *, links: bool = True, verify: bool = False, **selection: Any
    ) -> AsyncGenerator[RecordBatch, None]:
        """`stream_records_and_media` in batches, as the records come."""
        request = data_service_pb2.StreamRecordsRequest(source=source, media=_delivery(links=links), **selection)
        async with aclosing(read_ahead(self._records_read(request, verify=verify))) as batches:
            async for batch in batches:
                yield batch

    def _close_media(self) -> None:
        """Closes the files and connections that media were read from."""
        self._files.close()
        self._links.close()

    async def _media_read(
        self, request: data_service_pb2.ReadMediaRequest, *, verify: bool
    ) -> AsyncGenerator[list[tuple[str, Found]], None]:
        """Media of one request, in its order."""
        assembly, done = Assembly(self._files, self._links, verify=verify), 0

        def restart() -> None:
            nonlocal done
            del request.sha256s[:done]
            assembly.clear()
            done = 0

        stream = self._transport.stream(
            self._bulk.ReadMedia, request, on_restart=restart, position=lambda: len(request.sha256s) - done
        )
        async with aclosing(stream) as responses:
            async for response in responses:
                found = await _taken(assembly, response)
                order = request.sha256s[done : done + len(found)]
                done += len(found)
                yield [(digest, found.get(digest)) for digest in order]
                if done == len(request.sha256s):  # a stream that broke now would be asked for nothing
                    return

    async def _filled(self, batch: list[tuple[str, Found]]) -> list[tuple[str, Bytes]]:
        """The batch with what links did not give, read through the service."""
        read = [(digest, data.read() if isinstance(data, FileRange) else data) for digest, data in batch]
        lacking = [digest for digest, data in read if data is None]
        rest = {digest: data async for digest, data in self.read_media(lacking, links=False)} if lacking else {}
        return [(digest, rest[digest] if data is None else data) for digest, data in read]

    async def _records_read(
        self, request: data_service_pb2.StreamRecordsRequest, *, verify: bool
    ) -> AsyncGenerator[RecordBatch, None]:
        assembly, window = Assembly(self._files, self._links, verify=verify), MediaWindow[bytes | FileRange]()
        arrived, limit, num_records = dict[str, Found](), request.limit, 0

        def restart() -> None:
            nonlocal window
            window = MediaWindow()
            arrived.clear()
            assembly.clear()
            request.limit = limit and limit - num_records

        stream = self._transport.stream(
            self._bulk.StreamRecords, request, on_restart=restart, position=lambda: num_records
        )
        async with aclosing(stream) as responses:
            async for response in responses:
                arrived |= await _taken(assembly, response)
                if not response.records:
                    continue
                if response.HasField("files"):
                    found, lacking = _in_files(response, list(arrived.items()))
                else:
                    found, lacking = _joined(response.records, arrived, window)
                arrived.clear()
                if lacking:
                    await self._complete(found, lacking)
                num_records += len(found)
                request.after_id = found[-1][0].id
                yield RecordBatch(found)
                if limit and num_records >= limit:
                    return

    async def _complete(self, found: list[tuple[record_pb2.Record, dict[str, Found]]], lacking: set[str]) -> None:
        """Adds to the records the media that did not come with them."""
        rest = {digest: data async for digest, data in self.read_media(sorted(lacking), links=False)}
        for _, media in found:
            media.update({digest: rest[digest] for digest in media if digest in rest})


class Assembly:
    """Puts media together from what a stream brings: pieces, links and errors. Blocking."""

    def __init__(self, files: MediaFiles, links: MediaLinks, *, verify: bool) -> None:
        self._files, self._links, self._verify = files, links, verify
        self._begun: content_pb2.Media | None = None
        self._pieces: list[bytes] = []
        self._num_bytes = 0

    @property
    def begun_bytes(self) -> int:
        """Size of the medium of which only a part has come."""
        return self._begun.size_bytes if self._begun is not None else 0

    def clear(self) -> None:
        """Forgets the medium of which only a part has come."""
        self._begun, self._pieces, self._num_bytes = None, [], 0

    def find(self, response: Response) -> dict[str, FileRange | None]:
        """Where the media are that a message says are in files."""
        return dict(self._files.find(response.files, verify=self._verify)) if response.HasField("files") else {}

    def take(self, response: Response, places: Mapping[str, FileRange | None]) -> dict[str, Found]:
        """The media that a message completes, of which those in files are in these places."""
        found: dict[str, Found] = {
            digest: self._files.read(place) if place is not None else None for digest, place in places.items()
        }
        found.update(self._taken(response.media))
        return found

    def _taken(self, items: Iterable[Item]) -> Iterator[tuple[str, Found]]:
        for item in items:
            medium = item.media
            digest = medium.sha256
            if item.HasField("error"):
                self.clear()
                yield digest or self._digest(), from_status(item.error)
            elif item.HasField("link"):
                yield digest, self._links.read(item.link.url, sha256=digest, size_bytes=medium.size_bytes)
            elif data := item.data:
                if digest:
                    self._begun, self._pieces, self._num_bytes = medium, [], 0
                self._pieces.append(data)
                self._num_bytes += len(data)
                if self._begun is not None and self._num_bytes >= self._begun.size_bytes:
                    yield self._begun.sha256, self._whole()
            else:
                yield digest, None

    def _digest(self) -> str:
        return self._begun.sha256 if self._begun is not None else ""

    def _whole(self) -> Bytes:
        data, digest = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces), self._digest()
        self.clear()
        return data if hashlib.sha256(data).hexdigest() == digest else arrived_damaged(digest)


async def _taken(assembly: Assembly, response: Response) -> dict[str, Found]:
    """`Assembly.take`, in a thread where it takes long; small media would only wait for each other there."""
    places = assembly.find(response)
    coming = sum(item.media.size_bytes for item in response.media)
    coming += sum(len(place) for place in places.values() if place is not None and not place.is_later)
    if assembly.begun_bytes + coming > HERE_BYTES:
        return await asyncio.to_thread(assembly.take, response, places)
    return assembly.take(response, places)


def arrived_damaged(sha256: str) -> DataLoss:
    """The error for bytes that are not those of the digest."""
    message = f"Media object '{sha256}' arrived with another digest; try again, then upload it again."
    return DataLoss(message, reason="MEDIA_CORRUPT", metadata={"sha256": sha256})


def _delivery(*, links: bool) -> data_service_pb2.MediaDelivery:
    return data_service_pb2.MediaDelivery(links=links, inline_bytes=INLINE_BYTES if links else 0)


def _all(batch: Iterable[tuple[str, Found]]) -> list[tuple[str, Bytes]]:
    """A batch without links; a medium that comes without bytes all the same is as good as missing."""
    return [(digest, _in_memory(data, digest)) for digest, data in batch]


def _in_memory(data: Found, digest: str) -> Bytes:
    """The bytes of a medium, read now if they are in a file."""
    if isinstance(data, FileRange):
        return data.read() or arrived_damaged(digest)
    return NotFound(f"There is no media {digest}.", reason="MEDIA_NOT_FOUND") if data is None else data


def _in_files(
    response: data_service_pb2.StreamRecordsResponse, arrived: list[tuple[str, Found]]
) -> tuple[list[tuple[record_pb2.Record, dict[str, Found]]], set[str]]:
    """The records with the media that the message says they name, and the digests of those that files did not give."""
    found, numbers, at = list[tuple[record_pb2.Record, dict[str, Found]]](), list(response.named_media), 0
    for record, count in zip(response.records, response.named_counts, strict=True):
        found.append((record, dict([arrived[number] for number in numbers[at : at + count]])))
        at += count
    return found, {digest for digest, data in arrived if data is None}


def _joined(
    records: Iterable[record_pb2.Record], arrived: dict[str, Found], window: MediaWindow[bytes | FileRange]
) -> tuple[list[tuple[record_pb2.Record, dict[str, Found]]], set[str]]:
    """The records with their media, and the digests of media that are to be read through the service."""
    found, lacking = list[tuple[record_pb2.Record, dict[str, Found]]](), set[str]()
    for record in records:
        media = dict[str, Found]()
        for digest in media_named_by(record):
            data: Found = window.get(digest)
            if data is None:
                data = arrived.get(digest)
                if isinstance(data, (bytes, FileRange)):
                    window.add(digest, len(data), data)
            if data is None:
                lacking.add(digest)
            media[digest] = data
        found.append((record, media))
    return found, lacking


def _keep(media: MediaByDigest, digest: str, data: Bytes) -> None:
    if isinstance(data, bytes):
        media[digest] = data
    else:
        media.errors = {**media.errors, digest: data}
