"""Presigned URLs by which callers move media straight to and from the object store, past the service.

Bytes put to a URL are not visible until the upload is completed. Only then are they read back, hashed, decoded and
stored like any other upload, so a URL is no way around validation.
"""

import json
import re
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from omnialign.errors import FailedPrecondition, InvalidArgument, NotFound
from omnialign.names import parse, project_name_of
from omnialign.v1 import content_pb2
from omnialign.v1.data_service_pb2 import CreateMediaDownloadResponse, CreateMediaUploadResponse
from services.data.config import DataConfig
from services.data.media_store import Claim, MediaStore
from services.data.media_validation import too_large
from services.data.objects import ObjectStore
from services.data.objects.base import run_in_pool
from services.data.store import now_us, timestamp
from services.data.upload_receiver import PREFIX
from services.data.usage import Usage

MEDIA_UPLOAD = "projects/{project}/mediaUploads/{media_upload}"
MAX_TICKET_BYTES = 4096
PIECE_BYTES = 4 * 1024 * 1024


class PresignedMedia:
    """Uploads and downloads through presigned URLs."""

    def __init__(
        self, config: DataConfig, *, objects: ObjectStore, media: MediaStore, pool: ThreadPoolExecutor, usage: Usage
    ) -> None:
        self._config, self._objects, self._media, self._pool = config, objects, media, pool
        self._usage = usage

    async def create_upload(self, parent: str, *, sha256: str, size_bytes: int) -> CreateMediaUploadResponse:
        """A URL to put bytes to. Raises PRESIGNING_UNAVAILABLE, MEDIA_TOO_LARGE, QUOTA_EXCEEDED."""
        if size_bytes > self._config.max_media_bytes:
            raise too_large("bytes", found=size_bytes, limit=self._config.max_media_bytes)
        await self._usage.check(parent, {sha256: size_bytes})
        upload_id, seconds = uuid.uuid4().hex, self._config.link_seconds
        expire_us = now_us() + int(seconds * 1e6)
        url = await run_in_pool(self._pool, self._objects.presign_put, _bytes_key(upload_id), seconds=seconds)
        # The ticket remembers what was announced; `complete_upload` compares it with what was put.
        ticket = {"name": f"{parent}/mediaUploads/{upload_id}", "sha256": sha256, "size_bytes": size_bytes}
        await run_in_pool(self._pool, self._objects.put_bytes, _ticket_key(upload_id), json.dumps(ticket).encode())
        answer = CreateMediaUploadResponse(name=ticket["name"], url=url)  # type: ignore[arg-type]
        answer.expire_time.CopyFrom(timestamp(expire_us))
        return answer

    async def complete_upload(self, name: str, *, modality: int, mime_type: str) -> content_pb2.Media:
        """Validates and stores the bytes that were put; may be repeated.

        Raises MEDIA_UPLOAD_NOT_FOUND, MEDIA_UPLOAD_EMPTY, MEDIA_*, QUOTA_EXCEEDED.
        """
        upload_id = parse(name, MEDIA_UPLOAD)["media_upload"]
        sha256, size_bytes = await self._ticket(name, upload_id)
        found = await run_in_pool(self._pool, self._objects.stat, _bytes_key(upload_id))
        if found is None:
            return await self._completed(name, sha256)
        if found.size_bytes != size_bytes:
            message = f"{found.size_bytes} bytes were put, but {size_bytes} were announced: put the bytes again."
            metadata = {"claimed": str(size_bytes), "found": str(found.size_bytes)}
            raise InvalidArgument(message, reason="MEDIA_SIZE_MISMATCH", metadata=metadata)
        claim = Claim(modality=modality, mime_type=mime_type, sha256=sha256)
        pieces = self._bytes(upload_id, size_bytes)
        media, _ = await self._media.upload(pieces, claim=claim, parent=project_name_of(name))
        # Deleted only after they are stored: a crash before this line leaves bytes that a repeated call stores again.
        await run_in_pool(self._pool, self._objects.delete, _bytes_key(upload_id))
        return media

    async def create_download(self, sha256: str) -> CreateMediaDownloadResponse:
        """A URL to get bytes from. Raises PRESIGNING_UNAVAILABLE, MEDIA_NOT_FOUND."""
        seconds = self._config.link_seconds
        expire_us = now_us() + int(seconds * 1e6)
        url = await run_in_pool(self._pool, self._media.presign_get, sha256, seconds=seconds)
        answer = CreateMediaDownloadResponse(media=await self._media.described(sha256), url=url)
        answer.expire_time.CopyFrom(timestamp(expire_us))
        return answer

    async def _ticket(self, name: str, upload_id: str) -> tuple[str, int]:
        """The announced digest and size."""
        if re.fullmatch(r"[0-9a-f]{32}", upload_id):
            with suppress(NotFound):
                blob = await run_in_pool(
                    self._pool, self._objects.read, _ticket_key(upload_id), length=MAX_TICKET_BYTES
                )
                ticket = json.loads(blob)
                if ticket["name"] == name and "sha256" in ticket:
                    return ticket["sha256"], ticket["size_bytes"]
        message = f"There is no {name}: create another media upload."
        raise NotFound(message, reason="MEDIA_UPLOAD_NOT_FOUND", metadata={"name": name})

    async def _completed(self, name: str, sha256: str) -> content_pb2.Media:
        """The media that an earlier call stored: repeating a call succeeds."""
        try:
            return await self._media.described(sha256)
        except NotFound as error:
            message = f"Nothing has been put for {name} yet: send the bytes to its URL first."
            raise FailedPrecondition(message, reason="MEDIA_UPLOAD_EMPTY", metadata={"name": name}) from error

    async def _bytes(self, upload_id: str, size_bytes: int) -> AsyncIterator[bytes]:
        """The bytes that were put; the media store checks their digest."""
        for start in range(0, size_bytes, PIECE_BYTES):
            yield await run_in_pool(
                self._pool, self._objects.read, _bytes_key(upload_id), start=start, length=PIECE_BYTES
            )


def _ticket_key(upload_id: str) -> str:
    return f"{PREFIX}{upload_id}.json"


def _bytes_key(upload_id: str) -> str:
    return f"{PREFIX}{upload_id}/bytes"
