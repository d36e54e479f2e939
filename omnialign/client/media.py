"""Calls of the DataService about media: through the service, or by link straight to the object store.

A media object is known by the SHA-256 of its bytes, so an upload is safe to repeat and a download can be verified.
"""

import contextlib
import hashlib
from collections.abc import AsyncIterator, Iterator
from typing import cast

from omnialign.client.transport import ServiceCalls, Transport
from omnialign.errors import DataLoss
from omnialign.v1 import content_pb2, data_service_pb2, data_service_pb2_grpc

CHUNK_BYTES = 256 * 1024
MEDIA_DEADLINE_SECONDS = 300.0


class MediaCalls(ServiceCalls):
    """Media objects."""

    def __init__(self, transport: Transport, *, project: str) -> None:
        super().__init__(transport, project=project)
        self._media = data_service_pb2_grpc.DataServiceStub(transport.channel)

    async def upload_media(
        self, data: bytes, *, modality: int, mime_type: str = "", deadline_seconds: float = MEDIA_DEADLINE_SECONDS
    ) -> content_pb2.Media:
        """Stores a media object and returns a reference to it. Raises InvalidArgument if the bytes do not decode."""
        header = data_service_pb2.UploadMediaHeader(
            parent=self.parent,
            modality=cast("content_pb2.Modality.ValueType", modality),
            mime_type=mime_type,
            sha256=hashlib.sha256(data).hexdigest(),
        )

        async def messages() -> AsyncIterator[data_service_pb2.UploadMediaRequest]:
            yield data_service_pb2.UploadMediaRequest(header=header)
            for chunk in _chunks(data):
                yield data_service_pb2.UploadMediaRequest(chunk=chunk)

        response: data_service_pb2.UploadMediaResponse = await self._transport.upload(
            self._media.UploadMedia, messages, deadline_seconds=deadline_seconds
        )
        return response.media

    async def get_media(self, sha256: str, *, deadline_seconds: float = MEDIA_DEADLINE_SECONDS) -> bytes:
        """Returns the bytes of an object. Raises NotFound, and DataLoss (`MEDIA_CORRUPT`) if the digest differs."""
        request = data_service_pb2.GetMediaRequest(parent=self.parent, sha256=sha256)
        chunks: list[bytes] = []
        async for message in self._transport.stream(
            self._media.GetMedia, request, deadline_seconds=deadline_seconds, on_restart=chunks.clear
        ):
            chunks.append(message.chunk)
        data = b"".join(chunks)
        # Verified at the far end, so that no hop in between has to be trusted.
        if hashlib.sha256(data).hexdigest() != sha256:
            raise DataLoss(
                f"Media object '{sha256}' arrived with another digest; try again, then upload it again.",
                reason="MEDIA_CORRUPT",
                metadata={"sha256": sha256},
            )
        return data

    async def find_media(self, sha256: str, *, deadline_seconds: float | None = None) -> content_pb2.Media:
        """Returns the reference to a stored object, without reading its bytes. Raises NotFound."""
        request = data_service_pb2.GetMediaRequest(parent=self.parent, sha256=sha256)
        messages = self._transport.stream(
            self._media.GetMedia, request, deadline_seconds=deadline_seconds or MEDIA_DEADLINE_SECONDS
        )
        async with contextlib.aclosing(messages) as found:
            first: data_service_pb2.GetMediaResponse = await anext(found)
        return first.media

    async def stream_media(
        self, sha256: str, *, offset: int = 0, limit: int = 0, deadline_seconds: float = MEDIA_DEADLINE_SECONDS
    ) -> AsyncIterator[data_service_pb2.GetMediaResponse]:
        """Yields a part of an object, `limit` bytes from `offset` on (0 for all); the first message says what it is.

        Behind the end there is that message alone. Nothing is compared with the digest. Raises NotFound.
        """
        request = data_service_pb2.GetMediaRequest(
            parent=self.parent, sha256=sha256, read_offset=offset, read_limit=limit
        )
        async for message in self._transport.stream(self._media.GetMedia, request, deadline_seconds=deadline_seconds):
            yield message

    async def create_media_upload(self, sha256: str, *, size_bytes: int) -> data_service_pb2.CreateMediaUploadResponse:
        """Returns a link to upload an object to. Raises FailedPrecondition PRESIGNING_UNAVAILABLE."""
        request = data_service_pb2.CreateMediaUploadRequest(parent=self.parent, sha256=sha256, size_bytes=size_bytes)
        return await self._transport.unary(self._media.CreateMediaUpload, request)

    async def complete_media_upload(
        self,
        name: str,
        *,
        modality: int = 0,
        mime_type: str = "",
        deadline_seconds: float = MEDIA_DEADLINE_SECONDS,
    ) -> content_pb2.Media:
        """Completes an upload by link: the service verifies and stores the bytes. Raises InvalidArgument if they do
        not decode or are not those that were announced.
        """
        request = data_service_pb2.CompleteMediaUploadRequest(
            name=name, modality=cast("content_pb2.Modality.ValueType", modality), mime_type=mime_type
        )
        response: data_service_pb2.CompleteMediaUploadResponse = await self._transport.unary(
            self._media.CompleteMediaUpload, request, deadline_seconds=deadline_seconds
        )
        return response.media

    async def create_media_download(self, sha256: str) -> data_service_pb2.CreateMediaDownloadResponse:
        """Returns a link to download an object from. Raises NotFound, FailedPrecondition PRESIGNING_UNAVAILABLE."""
        request = data_service_pb2.CreateMediaDownloadRequest(parent=self.parent, sha256=sha256)
        return await self._transport.unary(self._media.CreateMediaDownload, request)


def _chunks(data: bytes) -> Iterator[bytes]:
    """Pieces of `data` that fit a message, in order; none if it is empty."""
    for start in range(0, len(data), CHUNK_BYTES):
        yield data[start : start + CHUNK_BYTES]
