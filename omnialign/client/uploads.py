"""Calls of the DataService that upload folders and files.

An upload is one stream: a header, then each file as its path, size and digest, followed by its bytes in chunks. The
service compares the digests. Each upload has a request id, made of its files, by which one that broke goes on. The
result is a temporary resource that a later call registers or imports.
"""

import asyncio
import functools
import hashlib
import json
import time
import uuid
from collections.abc import AsyncIterator, Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar, cast

from omnialign.client.transport import ServiceCalls, Transport
from omnialign.errors import InvalidArgument, Unavailable
from omnialign.folders import FileEntry, file_entry, list_files
from omnialign.retry import RetryState
from omnialign.v1 import data_service_pb2, data_service_pb2_grpc

CHUNK_BYTES = 512 * 1024
Message = TypeVar("Message")

Progress = Callable[[int, int], None]
"""Called with the bytes transferred so far and the bytes in total."""


class UploadCalls(ServiceCalls):
    """Uploads."""

    def __init__(self, transport: Transport, *, project: str) -> None:
        super().__init__(transport, project=project)
        self._uploads = data_service_pb2_grpc.DataServiceStub(transport.channel)

    async def upload_files(
        self,
        source: Path | str,
        *,
        keep_name: bool = False,
        progress: Progress | None = None,
        deadline_seconds: float | None = None,
    ) -> str:
        """Uploads a folder or one file. Returns the name of the upload, to be registered or imported within a day.

        With `keep_name`, which imports need, the upload contains the folder itself and not only its contents. An upload
        that breaks goes on with the first file that has not arrived; so does one of the same files by another process,
        such as after this one was killed. No deadline unless given. Raises InvalidArgument
        SOURCE_MISSING if `source` does not exist, SOURCE_EMPTY if it is a folder without files.
        """
        root, paths = await asyncio.to_thread(_files_at, Path(source))
        if keep_name:
            root = root.parent
        # Hashed before anything is sent, as the digest of a file travels ahead of its bytes. A file that changes
        # meanwhile fails the comparison on the server.
        entries = [await asyncio.to_thread(file_entry, path, folder=root) for path in paths]
        return await self._upload_all(paths, entries, progress=progress, deadline_seconds=deadline_seconds)

    async def _upload_all(
        self,
        paths: Sequence[Path],
        entries: Sequence[FileEntry],
        *,
        progress: Progress | None,
        deadline_seconds: float | None,
    ) -> str:
        """Uploads files. A stream that breaks is opened again, without the bytes of files that have arrived."""
        expiry = None if deadline_seconds is None else time.monotonic() + deadline_seconds
        request_id, retries = _request_id(entries), cast("RetryState | None", None)
        num_arrived = await self._num_arrived(request_id)
        while True:
            messages = functools.partial(self._messages, paths, entries, request_id, num_arrived, progress)
            remaining = None if expiry is None else max(expiry - time.monotonic(), 0.001)
            try:
                response: data_service_pb2.UploadFilesResponse = await self._transport.upload(
                    self._uploads.UploadFiles, messages, idempotent=False, deadline_seconds=remaining
                )
                return response.upload
            except Unavailable:
                retries = retries or self._transport.retries(is_transfer=True)
                pause_seconds = retries.next_pause_seconds()
                if pause_seconds is None:
                    raise
            await asyncio.sleep(pause_seconds)
            before, num_arrived = num_arrived, await self._num_arrived(request_id)
            if num_arrived > before:
                retries = None

    async def _messages(
        self,
        paths: Sequence[Path],
        entries: Sequence[FileEntry],
        request_id: str,
        num_arrived: int,
        progress: Progress | None,
    ) -> AsyncIterator[data_service_pb2.UploadFilesRequest]:
        """The messages of one attempt: all files are described, and the bytes of the first ones left out."""
        message, total = data_service_pb2.UploadFilesRequest, sum(entry.size_bytes for entry in entries)
        sent = sum(entry.size_bytes for entry in entries[:num_arrived])
        yield message(header=data_service_pb2.UploadFilesHeader(parent=self.parent, request_id=request_id))
        for number, (path, entry) in enumerate(zip(paths, entries, strict=True)):
            yield message(file=_uploaded_file(entry))
            if number < num_arrived:
                continue
            async for chunk in read_chunks(path):
                yield message(chunk=chunk)
                # Runs when the transport asks for the next message, which is after this one was written.
                sent += len(chunk)
                if progress:
                    progress(sent, total)

    async def _num_arrived(self, request_id: str) -> int:
        request = data_service_pb2.GetUploadProgressRequest(parent=self.parent, request_id=request_id)
        answer: data_service_pb2.GetUploadProgressResponse = await self._transport.unary(
            self._uploads.GetUploadProgress, request, is_transfer=True
        )
        return answer.file_count

    async def upload_pieces(
        self, pieces: AsyncIterator[FileEntry | bytes], *, deadline_seconds: float | None = None
    ) -> str:
        """Uploads files as they arrive, each a `FileEntry` followed by its bytes. Returns the name of the upload.

        Never retried, because `pieces` can be read only once.
        """

        async def messages() -> AsyncIterator[data_service_pb2.UploadFilesRequest]:
            message = data_service_pb2.UploadFilesRequest
            yield message(header=data_service_pb2.UploadFilesHeader(parent=self.parent))
            async for piece in pieces:
                yield message(file=_uploaded_file(piece)) if isinstance(piece, FileEntry) else message(chunk=piece)

        response: data_service_pb2.UploadFilesResponse = await self._transport.upload(
            self._uploads.UploadFiles, messages, idempotent=False, deadline_seconds=deadline_seconds
        )
        return response.upload


async def file_messages(
    message: Callable[..., Message], described: Callable[..., Any], paths: Sequence[Path], *, folder: Path
) -> AsyncIterator[Message]:
    """The messages of a stream that bring files of a folder: `file=described(...)`, then each `chunk` of its bytes."""
    for path in paths:
        entry = await asyncio.to_thread(file_entry, path, folder=folder)
        yield message(file=described(path=entry.path, size_bytes=entry.size_bytes, sha256=entry.sha256))
        async for chunk in read_chunks(path):
            yield message(chunk=chunk)


async def read_chunks(path: Path) -> AsyncIterator[bytes]:
    """The bytes of a file, in pieces that fit a message."""
    file = await asyncio.to_thread(path.open, "rb")
    try:
        while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
            yield chunk
    finally:
        file.close()


def _request_id(entries: Sequence[FileEntry]) -> str:
    """The same UUID for the same files in the same order."""
    files = json.dumps([(entry.path, entry.size_bytes, entry.sha256) for entry in entries])
    return str(uuid.UUID(bytes=hashlib.sha256(files.encode()).digest()[:16], version=4))


def _uploaded_file(entry: FileEntry) -> data_service_pb2.UploadedFile:
    return data_service_pb2.UploadedFile(path=entry.path, size_bytes=entry.size_bytes, sha256=entry.sha256)


def _files_at(source: Path) -> tuple[Path, list[Path]]:
    """The folder that paths are relative to, and the files. Raises SOURCE_MISSING, SOURCE_EMPTY."""
    source, metadata = source.expanduser().resolve(), {"path": str(source)}
    if source.is_file():
        return source.parent, [source]
    if not source.is_dir():
        raise InvalidArgument(
            f"There is no {source} to upload; check the path.", reason="SOURCE_MISSING", metadata=metadata
        )
    if not (paths := list_files(source)):
        raise InvalidArgument(
            f"{source} holds no files; name a folder with files.", reason="SOURCE_EMPTY", metadata=metadata
        )
    return source, paths
