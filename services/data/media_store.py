"""The content-addressed media store: `media/sha256/ab/cdef...` in a local folder.

An object appears whole or not at all: it is written to a temporary file, hashed on the way, proven to decode, synced
and renamed. What is stored was proven once, so the same bytes are not decoded again; they are hashed again, and a
damaged object is replaced by the good bytes. The blocking methods run in the pool given by the caller.
"""

import ctypes
import hashlib
import os
import tempfile
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from omnialign.errors import DataLoss, InvalidArgument, NotFound
from omnialign.v1 import content_pb2
from services.data import media
from services.data.faults import storage
from services.data.pool import call
from services.data.sniffing import HEAD_BYTES, MODALITIES

CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True)
class Claim:
    """What an upload says it is; empty fields claim nothing."""

    modality: int = 0
    mime_type: str = ""
    sha256: str = ""


class _Incoming:
    """A temporary file that is hashed and measured while it is written. Removed on exit unless it was moved."""

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._digest = hashlib.sha256()
        self.head = b""
        self.size_bytes = 0
        with storage():
            handle, name = tempfile.mkstemp(dir=folder)
        self.path = Path(name)
        self._file: IO[bytes] = os.fdopen(handle, "wb")

    def write(self, chunk: bytes) -> None:
        self.size_bytes += len(chunk)
        if self.size_bytes > self._limit_bytes:
            raise media.too_large("bytes", found=self.size_bytes, limit=self._limit_bytes)
        self.head = self.head or bytes(chunk[:HEAD_BYTES])
        self._digest.update(chunk)
        with storage():
            self._file.write(chunk)

    def finish(self, *, durable: bool) -> str:
        """Ends the file, on the disk itself if `durable`, and gives its digest."""
        with storage():
            self._file.flush()
            if durable:
                os.fsync(self._file.fileno())
            self._file.close()
        return self._digest.hexdigest()

    def discard(self) -> None:
        with storage():
            self._file.close()
        self.path.unlink(missing_ok=True)


class MediaStore:
    """Media objects by their SHA-256. Safe for many threads and processes on one folder."""

    def __init__(self, root: Path, *, limits: media.Limits, pool: ThreadPoolExecutor) -> None:
        self._objects = root / "media" / "sha256"
        self._incoming = root / "media" / "incoming"
        self._limits = limits
        self._pool = pool

    def prepare(self) -> None:
        """Makes the folders."""
        self._objects.mkdir(parents=True, exist_ok=True)
        self._incoming.mkdir(parents=True, exist_ok=True)

    async def upload(self, chunks: AsyncIterator[bytes], *, claim: Claim) -> tuple[content_pb2.Media, bool]:
        """Stores a stream; tells whether the bytes were there. Raises the MEDIA_* reasons of `media`."""
        incoming = await call(self._pool, self._begin)
        try:
            async for chunk in chunks:
                await call(self._pool, incoming.write, chunk)
            return await call(self._pool, self._admit, incoming, claim, durable=True)
        finally:
            await call(self._pool, incoming.discard)

    def put(self, data: bytes, *, claim: Claim) -> tuple[content_pb2.Media, bool]:
        """Stores bytes in memory (blocking). They are safe from a power cut after `settle`."""
        known = self._known(hashlib.sha256(data).hexdigest(), data[:HEAD_BYTES], claim)
        return (known, True) if known is not None else self._write((data,), claim)

    def put_file(self, path: Path, *, claim: Claim) -> tuple[content_pb2.Media, bool]:
        """Stores a copy of a file (blocking), without holding it in memory. Safe after `settle`, as with `put`."""
        if path.stat().st_size > self._limits.size_bytes:
            raise media.too_large("bytes", found=path.stat().st_size, limit=self._limits.size_bytes)
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            file.seek(0)
            known = self._known(hashlib.file_digest(file, "sha256").hexdigest(), head, claim)
            file.seek(0)
            return (known, True) if known is not None else self._write(_chunks(file), claim)

    async def settle(self) -> None:
        """Waits until all that was stored is on the disk: one sync for many objects instead of one for each.

        An object that a power cut damages before that is found by its digest and replaced by the next upload.
        """
        await call(self._pool, sync_filesystem, self._objects)

    def describe(self, sha256: str) -> content_pb2.Media:
        """The reference of a stored object (blocking). Raises NotFound, MEDIA_CORRUPT."""
        path = self._path(sha256)
        try:
            with path.open("rb") as file:
                head = file.read(HEAD_BYTES)
        except FileNotFoundError as error:
            message = f"There is no media {sha256}."
            raise NotFound(message, reason="MEDIA_NOT_FOUND", metadata={"sha256": sha256}) from error
        try:
            return _reference(media.identify(head), sha256, path.stat().st_size)
        except InvalidArgument as error:
            raise _corrupt(sha256) from error

    async def described(self, sha256: str) -> content_pb2.Media:
        """`describe`, off the event loop."""
        return await call(self._pool, self.describe, sha256)

    async def read(self, sha256: str) -> AsyncIterator[bytes]:
        """The bytes in chunks. Raises NotFound, or MEDIA_CORRUPT at the end when the digest is another."""
        file = await call(self._pool, self._open, sha256)
        digest = hashlib.sha256()
        try:
            while chunk := await call(self._pool, file.read, CHUNK_BYTES):
                digest.update(chunk)
                yield chunk
        finally:
            file.close()
        if digest.hexdigest() != sha256:
            raise _corrupt(sha256)

    def _begin(self) -> _Incoming:
        return _Incoming(self._incoming, limit_bytes=self._limits.size_bytes)

    def _open(self, sha256: str) -> IO[bytes]:
        self.describe(sha256)
        return self._path(sha256).open("rb")

    def _path(self, sha256: str) -> Path:
        return self._objects / sha256[:2] / sha256[2:]

    def _write(self, chunks: Iterable[bytes], claim: Claim) -> tuple[content_pb2.Media, bool]:
        incoming = self._begin()
        try:
            for chunk in chunks:
                incoming.write(chunk)
            return self._admit(incoming, claim, durable=False)
        finally:
            incoming.discard()

    def _admit(self, incoming: _Incoming, claim: Claim, *, durable: bool) -> tuple[content_pb2.Media, bool]:
        mime_type = media.identify(incoming.head, modality=claim.modality, mime_type=claim.mime_type)
        sha256 = incoming.finish(durable=durable)
        if claim.sha256 and claim.sha256 != sha256:
            message = f"The bytes have the digest {sha256}, and {claim.sha256} was claimed."
            metadata = {"claimed": claim.sha256, "found": sha256}
            raise InvalidArgument(message, reason="MEDIA_DIGEST_MISMATCH", metadata=metadata)
        existed = self._is_stored(sha256)
        if not existed:
            media.prove(incoming.path, mime_type, limits=self._limits)
            self._publish(incoming.path, sha256, durable=durable)
        return _reference(mime_type, sha256, incoming.size_bytes), existed

    def _known(self, sha256: str, head: bytes, claim: Claim) -> content_pb2.Media | None:
        if not self._is_stored(sha256):
            return None
        mime_type = media.identify(head, modality=claim.modality, mime_type=claim.mime_type)
        return _reference(mime_type, sha256, self._path(sha256).stat().st_size)

    def _is_stored(self, sha256: str) -> bool:
        try:
            with self._path(sha256).open("rb") as file:
                return hashlib.file_digest(file, "sha256").hexdigest() == sha256
        except FileNotFoundError:
            return False

    def _publish(self, temporary: Path, sha256: str, *, durable: bool) -> None:
        target = self._path(sha256)
        with storage():
            target.parent.mkdir(exist_ok=True)
            temporary.replace(target)
            if durable:
                with _folder(target.parent) as handle:
                    os.fsync(handle)  # the rename itself must survive a power cut


def sync_filesystem(folder: Path) -> None:
    """Writes out what the folder's filesystem has in memory (blocking)."""
    sync_one = getattr(ctypes.CDLL(None, use_errno=True), "syncfs", None)
    if sync_one is None:  # not Linux
        os.sync()
        return
    with storage(), _folder(folder) as handle:
        if sync_one(handle):
            raise OSError(ctypes.get_errno(), "the filesystem cannot be synced")


@contextmanager
def _folder(path: Path) -> Iterator[int]:
    handle = os.open(path, os.O_RDONLY)
    try:
        yield handle
    finally:
        os.close(handle)


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _reference(mime_type: str, sha256: str, size_bytes: int) -> content_pb2.Media:
    modality = content_pb2.Modality.ValueType(MODALITIES[mime_type])
    return content_pb2.Media(modality=modality, mime_type=mime_type, sha256=sha256, size_bytes=size_bytes)


def _corrupt(sha256: str) -> DataLoss:
    message = f"The stored media {sha256} is damaged: upload it again."
    return DataLoss(message, reason="MEDIA_CORRUPT", metadata={"sha256": sha256})
