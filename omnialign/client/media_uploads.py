"""Uploading many media files in one stream.

Small files are answered as they are stored, so that a stream that breaks goes on with the others; how fast they are
sent, the service says by how fast it reads. Larger files are uploaded after them, one by one.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from omnialign.client.media import MediaCalls
from omnialign.errors import InvalidArgument, OmnialignError, Unavailable, from_status
from omnialign.retry import RetryState
from omnialign.v1 import content_pb2, data_service_pb2

MAX_SENT_BYTES = 1 << 20
"""The largest file that is sent in one message, as the contract has it."""


@dataclass(frozen=True)
class MediaFile:
    """What became of a file: a reference to what is stored, or why it is refused."""

    path: Path
    media: content_pb2.Media | None = None
    error: OmnialignError | None = None


class MediaUploadCalls(MediaCalls):
    """Uploads of many media."""

    async def upload_media_files(self, paths: Iterable[Path | str], *, modality: int = 0) -> AsyncIterator[MediaFile]:
        """Stores media files, and yields what became of each, in any order, as soon as it would survive a power cut.

        With a `modality`, files of another one are refused. Waits for a service that restarts. Raises OmnialignError
        for what concerns all files, such as a service that is away for good.
        """
        pending = {str(number): Path(path) for number, path in enumerate(paths)}
        large, retries = dict[str, Path](), cast("RetryState | None", None)
        while pending:
            before, unread = len(pending), list[MediaFile]()
            messages = functools.partial(self._sent, pending, large, unread, modality)
            try:
                async for response in self._transport.converse(self._media.UploadManyMedia, messages):
                    for kept in response.media:
                        yield _found(pending.pop(kept.key), kept)
            except Unavailable:
                retries = None if len(pending) < before else retries
                retries = retries or self._transport.retries(is_transfer=True)
                if (pause_seconds := retries.next_pause_seconds()) is None:
                    raise
                await asyncio.sleep(pause_seconds)
            for file in unread:
                yield file
        for path in large.values():
            yield await self._upload(path, modality)

    async def _sent(
        self, pending: dict[str, Path], large: dict[str, Path], unread: list[MediaFile], modality: int
    ) -> AsyncIterator[data_service_pb2.UploadManyMediaRequest]:
        """The messages of one attempt. What is not sent in this way is taken out of `pending`."""
        message, kind = data_service_pb2.UploadManyMediaRequest, cast("content_pb2.Modality.ValueType", modality)
        yield message(header=data_service_pb2.UploadManyMediaHeader(parent=self.parent))
        for key, path in list(pending.items()):
            try:
                data = await asyncio.to_thread(_read, path)
            except OSError as error:
                unread.append(MediaFile(pending.pop(key), error=_unreadable(path, error)))
                continue
            if data is None:
                large[key] = pending.pop(key)
            else:
                yield message(medium=data_service_pb2.SentMedium(key=key, modality=kind, data=data))

    async def _upload(self, path: Path, modality: int) -> MediaFile:
        try:
            data = await asyncio.to_thread(path.read_bytes)
            return MediaFile(path, await self.upload_media(data, modality=modality))
        except OSError as error:
            return MediaFile(path, error=_unreadable(path, error))
        except InvalidArgument as error:
            return MediaFile(path, error=error)


def _read(path: Path) -> bytes | None:
    """The bytes of a file (blocking); None for one that is too large for a message."""
    with path.open("rb") as file:
        data = file.read(MAX_SENT_BYTES + 1)
    return data if len(data) <= MAX_SENT_BYTES else None


def _found(path: Path, kept: data_service_pb2.KeptMedium) -> MediaFile:
    if kept.HasField("error"):
        return MediaFile(path, error=from_status(kept.error))
    return MediaFile(path, kept.media)


def _unreadable(path: Path, error: OSError) -> InvalidArgument:
    message = f"{path} cannot be read: {error.strerror}; check the path."
    return InvalidArgument(message, reason="MEDIA_MISSING", metadata={"path": str(path)})
