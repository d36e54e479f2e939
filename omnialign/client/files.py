"""Calls of the DataService that move whole files: uploads of folders, downloads of models, links to media."""

import asyncio
import hashlib
import os
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import IO, cast

from omnialign.client.base import Calls
from omnialign.client.folder_lock import folder_lock
from omnialign.client.retry import MAX_ATTEMPTS, backoff_seconds
from omnialign.client.transport import Transport
from omnialign.errors import AlreadyExists, DataLoss, InvalidArgument, OmnialignError, Unavailable
from omnialign.folders import FileEntry, entries_digest, file_entry, folder_digest, list_files
from omnialign.v1 import content_pb2, data_service_pb2, data_service_pb2_grpc, model_pb2

FILE_CHUNK_BYTES = 512 * 1024

Progress = Callable[[int, int], None]
"""Told the bytes moved so far and the bytes there are."""


class FileCalls(Calls):
    """Uploads, downloads and links."""

    def __init__(self, transport: Transport, *, project: str) -> None:
        super().__init__(transport, project=project)
        self._files = data_service_pb2_grpc.DataServiceStub(transport.channel)

    async def upload_files(
        self,
        source: Path | str,
        *,
        keep_name: bool = False,
        progress: Progress | None = None,
        deadline_seconds: float | None = None,
    ) -> str:
        """Uploads a folder, or one file, and returns the upload's name: register or import it within a day.

        With `keep_name`, as imports want it, the folder itself is in the upload, not only what is in it. Each file is
        hashed first, and the service compares. No deadline unless given. Raises InvalidArgument SOURCE_MISSING for a
        path that is not there, SOURCE_EMPTY for a folder without files.
        """
        root, paths = await asyncio.to_thread(_files_at, Path(source))
        if keep_name:
            root = root.parent
        entries = [await asyncio.to_thread(file_entry, path, folder=root) for path in paths]
        total = sum(entry.size_bytes for entry in entries)

        async def messages() -> AsyncIterator[data_service_pb2.UploadFilesRequest]:
            message, done = data_service_pb2.UploadFilesRequest, 0
            yield message(header=data_service_pb2.UploadFilesHeader(parent=self.parent))
            for path, entry in zip(paths, entries, strict=True):
                file = data_service_pb2.UploadedFile(path=entry.path, size_bytes=entry.size_bytes, sha256=entry.sha256)
                yield message(file=file)
                async for chunk in read_chunks(path):
                    yield message(chunk=chunk)
                    done += len(chunk)
                    if progress:
                        progress(done, total)

        response: data_service_pb2.UploadFilesResponse = await self._transport.upload(
            self._files.UploadFiles, messages, deadline_seconds=deadline_seconds
        )
        return response.upload

    async def upload_pieces(
        self, pieces: AsyncIterator[FileEntry | bytes], *, deadline_seconds: float | None = None
    ) -> str:
        """Uploads files as they come, each a `FileEntry` followed by its bytes; returns the upload's name.

        Never tried again, because the pieces come only once.
        """

        async def messages() -> AsyncIterator[data_service_pb2.UploadFilesRequest]:
            message = data_service_pb2.UploadFilesRequest
            yield message(header=data_service_pb2.UploadFilesHeader(parent=self.parent))
            async for piece in pieces:
                if isinstance(piece, FileEntry):
                    yield message(
                        file=data_service_pb2.UploadedFile(
                            path=piece.path, size_bytes=piece.size_bytes, sha256=piece.sha256
                        )
                    )
                else:
                    yield message(chunk=piece)

        response: data_service_pb2.UploadFilesResponse = await self._transport.upload(
            self._files.UploadFiles, messages, idempotent=False, deadline_seconds=deadline_seconds
        )
        return response.upload

    async def download_model(
        self, name: str, to_folder: Path | str, *, progress: Progress | None = None
    ) -> model_pb2.ModelVersion:
        """Fetches the files of a model version into a folder, which appears when all are there and proven.

        Files that an earlier try fetched are kept beside it and not fetched again. Of several processes that fetch to
        one place one does, the others wait. A folder that holds the model already is left as it is. Raises NotFound,
        AlreadyExists FOLDER_EXISTS for a folder that holds something else, DataLoss MODEL_CORRUPT.
        """
        request = data_service_pb2.GetModelVersionRequest(name=name)
        version: model_pb2.ModelVersion = await self._transport.unary(self._files.GetModelVersion, request)
        target = Path(to_folder)
        await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
        async with folder_lock(target):
            if await asyncio.to_thread(target.exists):
                await asyncio.to_thread(_check_same, target, version)
            else:
                partial = target.parent / f".{target.name}.{version.sha256[:16]}.partial"
                await self._fetch_all(version, partial, progress)
                await asyncio.to_thread(partial.replace, target)
        return version

    async def download_model_settings(self, name: str, to_folder: Path | str) -> None:
        """Fetches all files of a model version but its weights into an existing folder: enough to count tokens.

        Each file is proven by its own digest. Raises NotFound, DataLoss MODEL_CORRUPT.
        """
        request = data_service_pb2.DownloadModelRequest(name=name, without_weights=True)
        await self._receive(request, Path(to_folder), {}, None)

    async def create_media_upload(self, sha256: str, *, size_bytes: int) -> data_service_pb2.CreateMediaUploadResponse:
        """A link to put a media object to. Raises FailedPrecondition PRESIGNING_UNAVAILABLE."""
        request = data_service_pb2.CreateMediaUploadRequest(parent=self.parent, sha256=sha256, size_bytes=size_bytes)
        return await self._transport.unary(self._files.CreateMediaUpload, request)

    async def complete_media_upload(
        self, name: str, *, modality: int = 0, mime_type: str = "", deadline_seconds: float = 300.0
    ) -> content_pb2.Media:
        """Ends an upload by link: the bytes are proven and stored. Raises InvalidArgument for bytes that are not."""
        request = data_service_pb2.CompleteMediaUploadRequest(
            name=name, modality=cast("content_pb2.Modality.ValueType", modality), mime_type=mime_type
        )
        answer: data_service_pb2.CompleteMediaUploadResponse = await self._transport.unary(
            self._files.CompleteMediaUpload, request, deadline_seconds=deadline_seconds
        )
        return answer.media

    async def create_media_download(self, sha256: str) -> data_service_pb2.CreateMediaDownloadResponse:
        """A link to get a media object from. Raises NotFound, FailedPrecondition PRESIGNING_UNAVAILABLE."""
        request = data_service_pb2.CreateMediaDownloadRequest(parent=self.parent, sha256=sha256)
        return await self._transport.unary(self._files.CreateMediaDownload, request)

    async def _fetch_all(self, version: model_pb2.ModelVersion, partial: Path, progress: Progress | None) -> None:
        """Fetches what `partial` lacks; a stream that breaks is opened again as long as each try brings a file."""
        had = await asyncio.to_thread(_entries_of, partial)
        attempt = 1
        while True:
            before = len(had)
            try:
                await self._fetch(version, partial, had, progress)
                break
            except Unavailable:
                attempt = 1 if len(had) > before else attempt + 1
                if attempt > MAX_ATTEMPTS:
                    raise
                await asyncio.sleep(backoff_seconds(attempt))
        if entries_digest(had.values()) != version.sha256:
            await asyncio.to_thread(shutil.rmtree, partial, ignore_errors=True)
            raise _corrupt(version.name)

    async def _fetch(
        self, version: model_pb2.ModelVersion, partial: Path, had: dict[str, FileEntry], progress: Progress | None
    ) -> None:
        """One stream of what `had` lacks."""
        request = data_service_pb2.DownloadModelRequest(name=version.name, skip_paths=sorted(had))
        counted = None if progress is None else lambda done: progress(done, max(done, version.size_bytes))
        await self._receive(request, partial, had, counted)

    async def _receive(
        self,
        request: data_service_pb2.DownloadModelRequest,
        folder: Path,
        had: dict[str, FileEntry],
        counted: Callable[[int], None] | None,
    ) -> None:
        """Writes the files of one stream; adds each that is whole to `had`."""
        done = sum(entry.size_bytes for entry in had.values())
        incoming: _IncomingFile | None = None
        try:
            async for message in self._transport.stream(self._files.DownloadModel, request):
                kind = message.WhichOneof("message")
                if kind == "file":
                    await _keep(incoming, had)
                    incoming = await asyncio.to_thread(_IncomingFile, folder, message.file)
                elif kind == "chunk" and incoming is not None:
                    await asyncio.to_thread(incoming.write, message.chunk)
                    done += len(message.chunk)
                    if counted:
                        counted(done)
            await _keep(incoming, had)
        finally:
            if incoming is not None:
                incoming.close()


class _IncomingFile:
    """A file of a download: it has its own name when it is whole and its digest is the one that was promised."""

    def __init__(self, folder: Path, file: data_service_pb2.DownloadedFile) -> None:
        self._entry = FileEntry(file.path, file.size_bytes, file.sha256)
        self._path = folder / file.path
        if not self._path.resolve().is_relative_to(folder.resolve()) or self._path == folder:
            raise OmnialignError(f"The service sent a file outside the folder: {file.path}.", reason="PATH_FORBIDDEN")
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._staged = self._path.parent / f".{self._path.name}.part"
        self._file: IO[bytes] = self._staged.open("wb")
        self._digest = hashlib.sha256()

    def write(self, chunk: bytes) -> None:
        self._digest.update(chunk)
        self._file.write(chunk)

    def finish(self) -> FileEntry:
        self._file.flush()
        os.fsync(self._file.fileno())  # a file that has its name is whole, after a power cut too
        self._file.close()
        if self._digest.hexdigest() != self._entry.sha256:
            self._staged.unlink(missing_ok=True)
            raise _corrupt(self._entry.path)
        self._staged.replace(self._path)
        return self._entry

    def close(self) -> None:
        """Removes what is not whole."""
        self._file.close()
        self._staged.unlink(missing_ok=True)


async def _keep(incoming: _IncomingFile | None, had: dict[str, FileEntry]) -> None:
    if incoming is not None:
        entry = await asyncio.to_thread(incoming.finish)
        had[entry.path] = entry


def _files_at(source: Path) -> tuple[Path, list[Path]]:
    """The folder that paths are relative to, and the files. Raises SOURCE_MISSING, SOURCE_EMPTY."""
    source, metadata = source.expanduser().resolve(), {"path": str(source)}
    if source.is_file():
        return source.parent, [source]
    if not source.is_dir():
        raise InvalidArgument(f"There is no {source} to upload.", reason="SOURCE_MISSING", metadata=metadata)
    if not (paths := list_files(source)):
        raise InvalidArgument(f"{source} holds no files.", reason="SOURCE_EMPTY", metadata=metadata)
    return source, paths


async def read_chunks(path: Path) -> AsyncIterator[bytes]:
    """The bytes of a file, in pieces that fit a message."""
    file = await asyncio.to_thread(path.open, "rb")
    try:
        while chunk := await asyncio.to_thread(file.read, FILE_CHUNK_BYTES):
            yield chunk
    finally:
        file.close()


def _entries_of(partial: Path) -> dict[str, FileEntry]:
    """What an earlier try left; a file without its final name is none."""
    for staged in partial.rglob(".*.part"):
        staged.unlink()
    entries = (file_entry(path, folder=partial) for path in list_files(partial))
    return {entry.path: entry for entry in entries}


def _check_same(folder: Path, version: model_pb2.ModelVersion) -> None:
    if not folder.is_dir() or folder_digest(folder) != version.sha256:
        message = f"{folder} exists and does not hold {version.name}: remove it, or name another folder."
        raise AlreadyExists(message, reason="FOLDER_EXISTS", metadata={"path": str(folder), "name": version.name})


def _corrupt(name: str) -> DataLoss:
    message = f"{name} arrived with other bytes than were registered: try again, then register the model again."
    return DataLoss(message, reason="MODEL_CORRUPT", metadata={"name": name})
