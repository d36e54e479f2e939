"""Uploading many media files in one stream.

Files are offered by their digests first, and those that the service has are not sent. Small files are answered as they
are stored, so that a stream that breaks goes on with the others; how fast they are sent, the service says by how fast
it reads. Larger files are uploaded after them, one by one.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterable
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TypeVar, cast

from omnialign.client.media import MediaCalls
from omnialign.errors import InvalidArgument, OmnialignError, ResourceExhausted, Unavailable, from_status
from omnialign.folders import file_digest
from omnialign.retry import RetryState
from omnialign.v1 import content_pb2, data_service_pb2

MAX_SENT_BYTES = 1 << 20
"""The largest file that is sent in one message, as the contract has it."""
HASHED_TOGETHER = 32
"""Files that are hashed by one visit to a thread."""
Request = data_service_pb2.UploadManyMediaRequest
T = TypeVar("T")
Files = dict[str, Path]
"""Files by the keys that tell their answers."""


@dataclass(frozen=True)
class MediaFile:
    """What became of a file: a reference to what is stored, or why it is refused."""

    path: Path
    media: content_pb2.Media | None = None
    error: OmnialignError | None = None
    existed: bool = False
    """Whether it was stored before, so that its bytes were not sent."""


class MediaUploadCalls(MediaCalls):
    """Uploads of many media."""

    async def upload_media_files(self, paths: Iterable[Path | str], *, modality: int = 0) -> AsyncIterator[MediaFile]:
        """Stores media files, and yields what became of each, in any order, as soon as it would survive a power cut.

        With a `modality`, files of another one are refused. Waits for a service that restarts. Raises OmnialignError
        for what concerns all files, such as a service that is away for good.
        """
        files = {str(number): Path(path) for number, path in enumerate(paths)}
        sending = _Sending(self.parent, cast("content_pb2.Modality.ValueType", modality))
        wanted = Files()
        async for kept in self._answers(dict(files), sending.offers):
            file = _found(files[kept.key], kept, existed=True)
            if file.error is not None and file.error.reason == "MEDIA_NOT_FOUND":
                wanted[kept.key] = file.path
            else:
                yield file
        async for kept in self._answers(wanted, sending.media):
            yield _found(files[kept.key], kept)
        for file in sending.unread:
            yield file
        for path in sending.large:
            yield await self._upload(path, modality)

    async def _answers(
        self, pending: Files, messages: Callable[[Files], AsyncIterator[Request]]
    ) -> AsyncIterator[data_service_pb2.KeptMedium]:
        """The answers to messages about files, until none is pending. A stream that breaks is opened again."""
        retries = cast("RetryState | None", None)
        while pending:
            before = len(pending)
            try:
                send = functools.partial(messages, pending)
                async for response in self._transport.converse(self._media.UploadManyMedia, send):
                    for kept in response.media:
                        del pending[kept.key]
                        yield kept
            except Unavailable:
                retries = None if len(pending) < before else retries
                retries = retries or self._transport.retries(is_transfer=True)
                if (pause_seconds := retries.next_pause_seconds()) is None:
                    raise
                await asyncio.sleep(pause_seconds)

    async def _upload(self, path: Path, modality: int) -> MediaFile:
        try:
            data = await asyncio.to_thread(path.read_bytes)
            return MediaFile(path, await self.upload_media(data, modality=modality))
        except OSError as error:
            return MediaFile(path, error=_unreadable(path, error))
        except (InvalidArgument, ResourceExhausted) as error:
            return MediaFile(path, error=error)


class _Sending:
    """The messages of an upload. Files that are sent in another way, or not at all, are taken out of the pending."""

    def __init__(self, parent: str, modality: content_pb2.Modality.ValueType) -> None:
        self._header = Request(header=data_service_pb2.UploadManyMediaHeader(parent=parent))
        self._modality = modality
        self.unread: list[MediaFile] = []
        """Files that cannot be read."""
        self.large: list[Path] = []
        """Files that are too large for a message."""

    async def offers(self, pending: Files) -> AsyncIterator[Request]:
        """Offers files by their digests."""
        yield self._header
        left = iter(list(pending.items()))
        while some := list(islice(left, HASHED_TOGETHER)):
            digests = await asyncio.to_thread(_digests, [path for _, path in some])
            for (key, _), digest in zip(some, digests, strict=True):
                if isinstance(digest, OSError):
                    self._set_aside(pending, key, digest)
                else:
                    offer = data_service_pb2.OfferedMedium(key=key, modality=self._modality, sha256=digest)
                    yield Request(offer=offer)

    async def media(self, pending: Files) -> AsyncIterator[Request]:
        """Sends files."""
        yield self._header
        for key, path in list(pending.items()):
            data = await asyncio.to_thread(_attempt, _read, path)
            if isinstance(data, OSError):
                self._set_aside(pending, key, data)
            elif data is None:
                self.large.append(pending.pop(key))
            else:
                yield Request(medium=data_service_pb2.SentMedium(key=key, modality=self._modality, data=data))

    def _set_aside(self, pending: Files, key: str, error: OSError) -> None:
        path = pending.pop(key)
        self.unread.append(MediaFile(path, error=_unreadable(path, error)))


def _attempt(read: Callable[[Path], T], path: Path) -> T | OSError:
    """What is read from a file, or why it cannot be."""
    try:
        return read(path)
    except OSError as error:
        return error


def _digests(paths: list[Path]) -> list[str | OSError]:
    return [_attempt(file_digest, path) for path in paths]


def _read(path: Path) -> bytes | None:
    """The bytes of a file (blocking); None for one that is too large for a message."""
    with path.open("rb") as file:
        data = file.read(MAX_SENT_BYTES + 1)
    return data if len(data) <= MAX_SENT_BYTES else None


def _found(path: Path, kept: data_service_pb2.KeptMedium, *, existed: bool = False) -> MediaFile:
    if kept.HasField("error"):
        return MediaFile(path, error=from_status(kept.error))
    return MediaFile(path, kept.media, existed=existed)


def _unreadable(path: Path, error: OSError) -> InvalidArgument:
    message = f"{path} cannot be read: {error.strerror}; check the path."
    return InvalidArgument(message, reason="MEDIA_MISSING", metadata={"path": str(path)})
