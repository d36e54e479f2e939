"""Links by which callers move media past the service, straight to and from the object store.

Bytes that were put by a link are nowhere to be seen until the upload is completed: then they are fetched, hashed,
decoded and stored like any other upload.
"""

import json
import re
import uuid
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

from omnialign.errors import FailedPrecondition, InvalidArgument, NotFound
from omnialign.names import parse
from omnialign.v1 import content_pb2
from omnialign.v1.data_service_pb2 import CreateMediaDownloadResponse, CreateMediaUploadResponse
from services.data.config import DataConfig
from services.data.media_store import Claim, MediaStore
from services.data.media_validation import too_large
from services.data.objects import ObjectStore
from services.data.objects.base import run_in_pool
from services.data.store import now_us, timestamp
from services.data.uploads import PREFIX

MEDIA_UPLOAD = "projects/{project}/mediaUploads/{media_upload}"
MAX_TICKET_BYTES = 4096
PIECE_BYTES = 4 * 1024 * 1024


class PresignedMedia:
    """Uploads and downloads by link."""

    def __init__(
        self, config: DataConfig, *, objects: ObjectStore, media: MediaStore, pool: ThreadPoolExecutor
    ) -> None:
        self._config, self._objects, self._media, self._pool = config, objects, media, pool

    async def create_upload(self, parent: str, *, sha256: str, size_bytes: int) -> CreateMediaUploadResponse:
        """A link to put bytes to. Raises PRESIGNING_UNAVAILABLE, MEDIA_TOO_LARGE."""
        if size_bytes > self._config.max_media_bytes:
            raise too_large("bytes", found=size_bytes, limit=self._config.max_media_bytes)
        upload_id, seconds = uuid.uuid4().hex, self._config.link_seconds
        expire_us = now_us() + int(seconds * 1e6)
        url = await run_in_pool(self._pool, self._objects.presign_put, _bytes_key(upload_id), seconds=seconds)
        ticket = {"name": f"{parent}/mediaUploads/{upload_id}", "sha256": sha256, "size_bytes": size_bytes}
        await run_in_pool(self._pool, self._objects.put_bytes, _ticket_key(upload_id), json.dumps(ticket).encode())
        answer = CreateMediaUploadResponse(name=ticket["name"], url=url)  # type: ignore[arg-type]
        answer.expire_time.CopyFrom(timestamp(expire_us))
        return answer

    async def complete_upload(self, name: str, *, modality: int, mime_type: str) -> content_pb2.Media:
        """Proves and stores the bytes that were put. Raises MEDIA_UPLOAD_NOT_FOUND, MEDIA_UPLOAD_EMPTY, MEDIA_*."""
        upload_id = parse(name, MEDIA_UPLOAD)["media_upload"]
        sha256, size_bytes = await self._ticket(name, upload_id)
        found = await run_in_pool(self._pool, self._objects.stat, _bytes_key(upload_id))
        if found is None:
            return await self._completed(name, sha256)
        if found.size_bytes != size_bytes:
            message = f"{found.size_bytes} bytes were put, and {size_bytes} were said to come: put them again."
            metadata = {"claimed": str(size_bytes), "found": str(found.size_bytes)}
            raise InvalidArgument(message, reason="MEDIA_SIZE_MISMATCH", metadata=metadata)
        claim = Claim(modality=modality, mime_type=mime_type, sha256=sha256)
        media, _ = await self._media.upload(self._bytes(upload_id, size_bytes), claim=claim)
        await run_in_pool(self._pool, self._objects.delete, _bytes_key(upload_id))
        return media

    async def create_download(self, sha256: str) -> CreateMediaDownloadResponse:
        """A link to get bytes from. Raises PRESIGNING_UNAVAILABLE, MEDIA_NOT_FOUND."""
        seconds = self._config.link_seconds
        expire_us = now_us() + int(seconds * 1e6)
        url = await run_in_pool(self._pool, self._media.presign_get, sha256, seconds=seconds)
        answer = CreateMediaDownloadResponse(media=await self._media.described(sha256), url=url)
        answer.expire_time.CopyFrom(timestamp(expire_us))
        return answer

    async def _ticket(self, name: str, upload_id: str) -> tuple[str, int]:
        """The digest and the size that were said to come."""
        if re.fullmatch(r"[0-9a-f]{32}", upload_id):
            with suppress(NotFound):
                blob = await run_in_pool(
                    self._pool, self._objects.read, _ticket_key(upload_id), length=MAX_TICKET_BYTES
                )
                ticket = json.loads(blob)
                if ticket["name"] == name and "sha256" in ticket:
                    return ticket["sha256"], ticket["size_bytes"]
        message = f"There is no {name}: begin another upload."
        raise NotFound(message, reason="MEDIA_UPLOAD_NOT_FOUND", metadata={"name": name})

    async def _completed(self, name: str, sha256: str) -> content_pb2.Media:
        """What an earlier call stored; repeating it is success."""
        try:
            return await self._media.described(sha256)
        except NotFound as error:
            message = f"Nothing was put for {name} yet: send the bytes to the link first."
            raise FailedPrecondition(message, reason="MEDIA_UPLOAD_EMPTY", metadata={"name": name}) from error

    async def _bytes(self, upload_id: str, size_bytes: int) -> AsyncIterator[bytes]:
        """The bytes that were put; the media store compares their digest."""
        for start in range(0, size_bytes, PIECE_BYTES):
            yield await run_in_pool(
                self._pool, self._objects.read, _bytes_key(upload_id), start=start, length=PIECE_BYTES
            )


def _ticket_key(upload_id: str) -> str:
    return f"{PREFIX}{upload_id}.json"


def _bytes_key(upload_id: str) -> str:
    return f"{PREFIX}{upload_id}/bytes"
