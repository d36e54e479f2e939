"""Calls of the DataService that download models and exports: resumable, verified, and one process at a time.

A download fills a hidden folder beside the target, `.{target}.{digest}.partial`. Each file in it gets its own name once
it is whole and verified, and the folder gets the target's name once the digest over all files is right. So a target
that exists is complete, and what a crash leaves behind is resumed by file.
"""

import asyncio
import fcntl
import hashlib
import os
import re
import shutil
import tarfile
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import IO

from omnialign import names
from omnialign.client.transport import ServiceCalls, Transport
from omnialign.client.uploads import Progress
from omnialign.errors import AlreadyExists, DataLoss, OmnialignError, Unavailable
from omnialign.exporting.folder import check_free
from omnialign.folders import FileEntry, entries_digest, file_entry, folder_digest, list_files
from omnialign.v1 import data_service_pb2, data_service_pb2_grpc, model_pb2

LOCK_POLL_SECONDS = 0.1
MEDIA_TAR = re.compile(r"media(-\d+-of-\d+)?\.tar")
MEDIA = re.compile(r"media/[0-9a-f]{64}\.\w+")
"""The names of the tar files of an export that hold media, and of what they hold."""


class DownloadCalls(ServiceCalls):
    """Downloads of models."""

    def __init__(self, transport: Transport, *, project: str) -> None:
        super().__init__(transport, project=project)
        self._downloads = data_service_pb2_grpc.DataServiceStub(transport.channel)

    async def download_model(
        self, name: str, to_folder: Path | str, *, progress: Progress | None = None
    ) -> model_pb2.ModelVersion:
        """Downloads a model version into `to_folder`, which appears once all files are there and verified.

        Files that an earlier attempt completed are not downloaded again. If several processes download to one place,
        one does and the others wait. A folder that holds the model already is left alone. Raises NotFound,
        AlreadyExists FOLDER_EXISTS for a folder that holds something else, DataLoss MODEL_CORRUPT.
        """
        request = data_service_pb2.GetModelVersionRequest(name=name)
        version: model_pb2.ModelVersion = await self._transport.unary(
            self._downloads.GetModelVersion, request, is_transfer=True
        )
        target = Path(to_folder)
        await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
        async with folder_lock(target):
            # Only under the lock: the process that held it before may have just completed the target.
            if await asyncio.to_thread(target.exists):
                await asyncio.to_thread(_check_same, target, version)
            else:
                # The digest in the name keeps the files of another version from being resumed.
                partial = target.parent / f".{target.name}.{version.sha256[:16]}.partial"
                await self._download_all(version, partial, progress)
                await asyncio.to_thread(partial.replace, target)
        return version

    async def download_model_settings(self, name: str, to_folder: Path | str) -> None:
        """Downloads all files of a model version except its weights into an existing folder: enough to count tokens.

        Each file is verified by its own digest. Raises NotFound, DataLoss MODEL_CORRUPT.
        """
        request = data_service_pb2.DownloadModelRequest(name=name, without_weights=True)
        await self._receive_all(request, Path(to_folder), {}, None)

    async def download_export(
        self,
        export: str,
        files: Sequence[data_service_pb2.ExportedFile],
        to_folder: Path | str,
        *,
        progress: Progress | None = None,
    ) -> None:
        """Downloads the files of an export into `to_folder`, which appears once all are there; media lie as rows say.

        Files that an earlier attempt completed are not downloaded again. Raises NotFound EXPORT_NOT_FOUND,
        AlreadyExists FOLDER_NOT_EMPTY, DataLoss EXPORT_CORRUPT.
        """
        target = Path(to_folder)
        await asyncio.to_thread(target.parent.mkdir, parents=True, exist_ok=True)
        async with folder_lock(target):
            await asyncio.to_thread(check_free, target)
            partial = target.parent / f".{target.name}.{names.id_of(export)[:16]}.partial"
            complete, done = await asyncio.to_thread(_completed_files, partial), 0
            total = sum(file.size_bytes for file in files)
            for file in files:
                entry = FileEntry(file.path, file.size_bytes, file.sha256)
                if complete.get(file.path) != entry:
                    await self._download_file(export, entry, partial)
                done += file.size_bytes
                if progress:
                    progress(done, total)
            await asyncio.to_thread(_unpack_media, partial)
            await asyncio.to_thread(partial.replace, target)

    async def _download_file(self, export: str, entry: FileEntry, folder: Path) -> None:
        """Downloads one file. A stream that breaks goes on behind what has arrived."""
        incoming, arrived = await asyncio.to_thread(_IncomingFile, folder, entry), 0
        retries = self._transport.retries(is_transfer=True)
        try:
            while True:
                before = arrived
                request = data_service_pb2.DownloadExportRequest(name=export, path=entry.path, read_offset=arrived)
                try:
                    async for message in self._transport.stream(
                        self._downloads.DownloadExport, request, idempotent=False
                    ):
                        await asyncio.to_thread(incoming.write, message.chunk)
                        arrived += len(message.chunk)
                    break
                except Unavailable:
                    if arrived > before:
                        retries = self._transport.retries(is_transfer=True)
                    if (pause_seconds := retries.next_pause_seconds()) is None:
                        raise
                    await asyncio.sleep(pause_seconds)
            await asyncio.to_thread(incoming.finish, _damaged)
        finally:
            incoming.close()

    async def _download_all(self, version: model_pb2.ModelVersion, partial: Path, progress: Progress | None) -> None:
        """Downloads what `partial` lacks."""
        complete = await asyncio.to_thread(_completed_files, partial)
        request = data_service_pb2.DownloadModelRequest(name=version.name)
        report = None if progress is None else lambda done: progress(done, max(done, version.size_bytes))
        await self._receive_all(request, partial, complete, report)
        # Each file matched the digest that was sent with it. Only this one shows that none is missing or left over.
        if entries_digest(complete.values()) != version.sha256:
            await asyncio.to_thread(shutil.rmtree, partial, ignore_errors=True)
            raise _corrupt(version.name)

    async def _receive_all(
        self,
        request: data_service_pb2.DownloadModelRequest,
        folder: Path,
        complete: dict[str, FileEntry],
        report: Callable[[int], None] | None,
    ) -> None:
        """Writes the files that are not in `complete`. A stream that breaks is opened again without those that are."""
        retries = self._transport.retries(is_transfer=True)
        while True:
            num_before = len(complete)
            request.skip_paths[:] = sorted(complete)
            try:
                return await self._receive(request, folder, complete, report)
            except Unavailable:
                if len(complete) > num_before:
                    retries = self._transport.retries(is_transfer=True)
                pause_seconds = retries.next_pause_seconds()
                if pause_seconds is None:
                    raise
                await asyncio.sleep(pause_seconds)

    async def _receive(
        self,
        request: data_service_pb2.DownloadModelRequest,
        folder: Path,
        complete: dict[str, FileEntry],
        report: Callable[[int], None] | None,
    ) -> None:
        """Writes the files of one stream. Adds each to `complete` once it is whole, and calls `report` with bytes."""
        done = sum(entry.size_bytes for entry in complete.values())
        incoming: _IncomingFile | None = None
        try:
            # Not repeated by the transport: only the callers know which files they have.
            async for message in self._transport.stream(self._downloads.DownloadModel, request, idempotent=False):
                kind = message.WhichOneof("message")
                if kind == "file":
                    # A file has no end of its own in the stream: the next header, or the end of the stream, is it.
                    await _finish(incoming, complete)
                    file = message.file
                    entry = FileEntry(file.path, file.size_bytes, file.sha256)
                    incoming = await asyncio.to_thread(_IncomingFile, folder, entry)
                elif kind == "chunk" and incoming is not None:
                    await asyncio.to_thread(incoming.write, message.chunk)
                    done += len(message.chunk)
                    if report:
                        report(done)
            await _finish(incoming, complete)
        finally:
            if incoming is not None:
                incoming.close()


class _IncomingFile:
    """A file being downloaded, under a temporary name until it is whole and its digest is verified."""

    def __init__(self, folder: Path, entry: FileEntry) -> None:
        self._entry = entry
        self._path = folder / entry.path
        # The path comes from the other end: it must not lead out of the folder, by `..` or by a link.
        if not self._path.resolve().is_relative_to(folder.resolve()) or self._path == folder:
            raise OmnialignError(
                f"The service sent a file outside the target folder: {entry.path}.", reason="PATH_FORBIDDEN"
            )
        self._path.parent.mkdir(parents=True, exist_ok=True)
        self._staged = self._path.parent / f".{self._path.name}.part"
        self._file: IO[bytes] = self._staged.open("wb")
        self._digest = hashlib.sha256()

    def write(self, chunk: bytes) -> None:
        """Appends a chunk."""
        self._digest.update(chunk)
        self._file.write(chunk)

    def finish(self, corrupt: Callable[[str], DataLoss]) -> FileEntry:
        """Verifies the file and gives it its name. Raises the error that `corrupt` makes of its path."""
        self._file.flush()
        # Before the rename, or a power cut could leave a file that has its name but not its bytes.
        os.fsync(self._file.fileno())
        self._file.close()
        if self._digest.hexdigest() != self._entry.sha256:
            self._staged.unlink(missing_ok=True)
            raise corrupt(self._entry.path)
        self._staged.replace(self._path)
        return self._entry

    def close(self) -> None:
        """Removes the file unless it was finished."""
        self._file.close()
        self._staged.unlink(missing_ok=True)


@asynccontextmanager
async def folder_lock(folder: Path) -> AsyncIterator[None]:
    """Waits for the lock of `folder`, which need not exist. The lock of a process that dies is released."""
    # The lock file stays for good. Deleting it would let two processes hold a lock on different files of that name.
    handle = os.open(folder.parent / f".{folder.name}.lock", os.O_RDWR | os.O_CREAT, 0o644)
    try:
        while not _try_lock(handle):  # noqa: ASYNC110  what is awaited is another process
            await asyncio.sleep(LOCK_POLL_SECONDS)
        yield
    finally:
        os.close(handle)  # releases the lock


def _try_lock(handle: int) -> bool:
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


async def _finish(incoming: _IncomingFile | None, complete: dict[str, FileEntry]) -> None:
    if incoming is not None:
        entry = await asyncio.to_thread(incoming.finish, _corrupt)
        complete[entry.path] = entry


def _completed_files(partial: Path) -> dict[str, FileEntry]:
    """The files that an earlier attempt completed, by path. Removes those that it did not complete."""
    for staged in partial.rglob(".*.part"):
        staged.unlink()
    entries = (file_entry(path, folder=partial) for path in list_files(partial))
    return {entry.path: entry for entry in entries}


def _unpack_media(folder: Path) -> None:
    """Puts the media of an export beside its rows, which name them there, in place of the tar files that held them."""
    folder.mkdir(exist_ok=True)  # an export without a row has no file
    for path in [path for path in folder.glob("media*.tar") if MEDIA_TAR.fullmatch(path.name)]:
        with tarfile.open(path) as archive:
            if all(member.isreg() and MEDIA.fullmatch(member.name) for member in archive):
                archive.extractall(folder, filter="data")
                path.unlink()


def _check_same(folder: Path, version: model_pb2.ModelVersion) -> None:
    if not folder.is_dir() or folder_digest(folder) != version.sha256:
        message = f"{folder} exists and does not hold {version.name}: remove it, or name another folder."
        raise AlreadyExists(message, reason="FOLDER_EXISTS", metadata={"path": str(folder), "name": version.name})


def _corrupt(name: str) -> DataLoss:
    message = f"{name} arrived with bytes other than those registered: try again, then register the model again."
    return DataLoss(message, reason="MODEL_CORRUPT", metadata={"name": name})


def _damaged(path: str) -> DataLoss:
    message = f"{path} arrived with bytes other than those exported: download it again, or else export again."
    return DataLoss(message, reason="EXPORT_CORRUPT", metadata={"path": path})
