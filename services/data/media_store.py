"""The content-addressed media store: `media/sha256/ab/cdef...` in a local folder or a bucket.

An object is complete or absent: bytes are written to a local temporary file, hashed on the way, validated by decoding,
and only then put. Stored bytes have been validated once, so the same bytes are not decoded again when they come again.
The stored object is hashed again, though, and if it is damaged the good bytes replace it.
"""

import hashlib
from collections.abc import AsyncIterator, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO

from omnialign.errors import DataLoss, InvalidArgument, NotFound
from omnialign.v1 import content_pb2
from services.data.media_validation import HEAD_BYTES, MODALITIES, MediaLimits, identify, too_large, validate
from services.data.objects import ObjectStore
from services.data.objects.base import StagedFile, run_in_pool
from services.sandbox.media import LIMITS, killed_decoder
from services.sandbox.pool import Sandbox

CHUNK_BYTES = 256 * 1024


@dataclass(frozen=True)
class Claim:
    """What an upload claims to be; empty fields claim nothing."""

    modality: int = 0
    mime_type: str = ""
    sha256: str = ""


class MediaStore:
    """Media objects by SHA-256. Safe for concurrent threads and processes on one object store."""

    def __init__(
        self, objects: ObjectStore, *, scratch: Path, limits: MediaLimits, pool: ThreadPoolExecutor, sandbox: Sandbox
    ) -> None:
        self._objects, self._scratch, self._sandbox = objects, scratch, sandbox
        self._limits = limits
        self._pool = pool

    async def upload(self, chunks: AsyncIterator[bytes], *, claim: Claim) -> tuple[content_pb2.Media, bool]:
        """Stores a stream; returns its reference and whether it existed. Raises the reasons of `media_validation`."""
        staged = await run_in_pool(self._pool, self._begin)
        try:
            async for chunk in chunks:
                await run_in_pool(self._pool, self._append, staged, chunk)
            media, existed = await run_in_pool(self._pool, self._finish, staged, claim)
            if not existed:  # validated before it is put: what is in the store can be decoded
                await self._sandbox.in_thread(self._validate, staged.path, media)
                await run_in_pool(self._pool, self._put, staged, media, durable=True)
            return media, existed
        finally:
            await run_in_pool(self._pool, staged.discard)

    def put(self, data: bytes, *, claim: Claim) -> tuple[content_pb2.Media, bool]:
        """Stores bytes from memory (blocking). They survive a power cut after `sync`."""
        known = self._known(hashlib.sha256(data).hexdigest(), data[:HEAD_BYTES], claim)
        return (known, True) if known is not None else self._write((data,), claim)

    def put_file(self, path: Path, *, claim: Claim) -> tuple[content_pb2.Media, bool]:
        """Stores a copy of a file without holding it in memory (blocking). It survives a power cut after `sync`."""
        if path.stat().st_size > self._limits.size_bytes:
            raise too_large("bytes", found=path.stat().st_size, limit=self._limits.size_bytes)
        with path.open("rb") as file:
            head = file.read(HEAD_BYTES)
            file.seek(0)
            known = self._known(hashlib.file_digest(file, "sha256").hexdigest(), head, claim)
            file.seek(0)
            return (known, True) if known is not None else self._write(_chunks(file), claim)

    async def sync(self) -> None:
        """Waits until all stored objects survive a power cut: one sync for many objects, not one for each.

        An object damaged by a power cut before that is detected by its digest and replaced by the next upload.
        """
        await run_in_pool(self._pool, self._objects.sync)

    def describe(self, sha256: str) -> content_pb2.Media:
        """The reference of a stored object (blocking). Raises NotFound, MEDIA_CORRUPT."""
        if (found := self._objects.stat(_key(sha256))) is None:
            raise _missing(sha256)
        try:
            mime_type = identify(self._objects.read(_key(sha256), length=HEAD_BYTES))
        except InvalidArgument as error:
            raise _corrupt(sha256) from error
        return _reference(mime_type, sha256, found.size_bytes)

    def stored_size_bytes(self, sha256: str) -> int | None:
        """Hashes a stored object and returns its size (blocking); None if it is missing or damaged."""
        try:
            return sum(len(piece) for piece in self._objects.chunks(_key(sha256), sha256=sha256))
        except (NotFound, DataLoss):
            return None

    async def described(self, sha256: str) -> content_pb2.Media:
        """`describe`, off the event loop."""
        return await run_in_pool(self._pool, self.describe, sha256)

    async def read(self, sha256: str) -> AsyncIterator[bytes]:
        """The bytes in chunks. Raises NotFound, or MEDIA_CORRUPT after the last chunk if the digest does not match."""
        pieces = self._objects.chunks(_key(sha256), sha256=sha256)
        try:
            while (piece := await run_in_pool(self._pool, next, pieces, None)) is not None:
                yield piece
        except NotFound as error:
            raise _missing(sha256) from error
        except DataLoss as error:
            raise _corrupt(sha256) from error
        finally:
            with suppress(ValueError):  # a thread may still be reading for a cancelled call: that read ends by itself
                pieces.close()

    def presign_get(self, sha256: str, *, seconds: float) -> str:
        """A URL to read the bytes from (blocking). Raises PRESIGNING_UNAVAILABLE."""
        return self._objects.presign_get(_key(sha256), seconds=seconds)

    def _begin(self) -> StagedFile:
        return StagedFile(self._scratch, head_bytes=HEAD_BYTES)

    def _append(self, staged: StagedFile, chunk: bytes) -> None:
        if staged.size_bytes + len(chunk) > self._limits.size_bytes:
            found = staged.size_bytes + len(chunk)
            raise too_large("bytes", found=found, limit=self._limits.size_bytes)
        staged.write(chunk)

    def _write(self, chunks: Iterable[bytes], claim: Claim) -> tuple[content_pb2.Media, bool]:
        staged = self._begin()
        try:
            for chunk in chunks:
                self._append(staged, chunk)
            media, existed = self._finish(staged, claim)
            if not existed:
                self._validate(staged.path, media)
                self._put(staged, media, durable=False)
            return media, existed
        finally:
            staged.discard()

    def _finish(self, staged: StagedFile, claim: Claim) -> tuple[content_pb2.Media, bool]:
        """The reference of what was staged, and whether it is stored already."""
        mime_type = identify(staged.head, modality=claim.modality, mime_type=claim.mime_type)
        sha256 = staged.finish()
        if claim.sha256 and claim.sha256 != sha256:
            message = f"The bytes have the digest {sha256}, but {claim.sha256} was claimed."
            metadata = {"claimed": claim.sha256, "found": sha256}
            raise InvalidArgument(message, reason="MEDIA_DIGEST_MISMATCH", metadata=metadata)
        return _reference(mime_type, sha256, staged.size_bytes), self.stored_size_bytes(sha256) is not None

    def _validate(self, path: Path, media: content_pb2.Media) -> None:
        """Decodes a file in a child process (blocking). Raises the reasons of `validate`, and MEDIA_KILLED_DECODER."""
        self._sandbox.call(
            validate,
            path,
            media.mime_type,
            self._limits,
            refusal=killed_decoder,
            key=media.sha256,
            limits=LIMITS[media.modality],
        )

    def _put(self, staged: StagedFile, media: content_pb2.Media, *, durable: bool) -> None:
        self._objects.put(_key(media.sha256), staged.path, sha256=media.sha256, durable=durable)

    def _known(self, sha256: str, head: bytes, claim: Claim) -> content_pb2.Media | None:
        if (size_bytes := self.stored_size_bytes(sha256)) is None:
            return None
        mime_type = identify(head, modality=claim.modality, mime_type=claim.mime_type)
        return _reference(mime_type, sha256, size_bytes)


def _key(sha256: str) -> str:
    return f"media/sha256/{sha256[:2]}/{sha256[2:]}"


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _reference(mime_type: str, sha256: str, size_bytes: int) -> content_pb2.Media:
    modality = content_pb2.Modality.ValueType(MODALITIES[mime_type])
    return content_pb2.Media(modality=modality, mime_type=mime_type, sha256=sha256, size_bytes=size_bytes)


def _missing(sha256: str) -> NotFound:
    return NotFound(f"There is no media {sha256}.", reason="MEDIA_NOT_FOUND", metadata={"sha256": sha256})


def _corrupt(sha256: str) -> DataLoss:
    message = f"The stored media {sha256} is damaged: upload it again."
    return DataLoss(message, reason="MEDIA_CORRUPT", metadata={"sha256": sha256})
