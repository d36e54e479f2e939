"""The content-addressed media store: `media/sha256/ab/cdef...` in a local folder or a bucket.

An object is complete or absent: bytes are written to a local temporary file, hashed on the way, validated by decoding,
and only then put. Stored bytes have been validated once, so the same bytes are not decoded again when they come again.
The stored object is hashed again, though, and if it is damaged the good bytes replace it.

The type of an object is found by decoding it. Where its first bytes would suggest another one, or might, the type is
kept beside it: `media/types/ab/cdef...`.
"""

import hashlib
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, TypeVar

import numpy as np

from omnialign.errors import DataLoss, InvalidArgument, NotFound, OmnialignError
from omnialign.media import MediaError
from omnialign.v1 import content_pb2
from services.data.media_types import CERTAIN, HEAD_BYTES, VIDEO, modality_of, sniff
from services.data.media_validation import MediaLimits, check_claim, too_large, validate, validate_together
from services.data.objects import ObjectStore
from services.data.objects.base import StagedFile, run_in_pool
from services.data.usage import Usage
from services.sandbox.limits import Limits
from services.sandbox.media import LIMITS, killed_decoder
from services.sandbox.pool import Sandbox

CHUNK_BYTES = 256 * 1024
SMALL_BYTES = 256 * 1024
"""Size up to which several media are validated by one call to a child."""
CALL_BYTES, CALL_MEDIA = 4 * 1024 * 1024, 64
"""The most that such a call takes."""
MAX_AHEAD = 10_000
K = TypeVar("K")
MAX_TYPE_BYTES = 256


@dataclass(frozen=True)
class Claim:
    """What an upload claims to be; empty fields claim nothing."""

    modality: int = 0
    mime_type: str = ""
    sha256: str = ""


@dataclass(frozen=True)
class ValidMedium:
    """Bytes that were decoded in the sandbox and are about to be stored."""

    data: bytes
    sha256: str
    mime_type: str


class MediaStore:
    """Media objects by SHA-256. Safe for concurrent threads and processes on one object store."""

    def __init__(
        self,
        objects: ObjectStore,
        *,
        scratch: Path,
        limits: MediaLimits,
        pool: ThreadPoolExecutor,
        sandbox: Sandbox,
        usage: Usage,
    ) -> None:
        self._objects, self._scratch, self._sandbox, self._usage = objects, scratch, sandbox, usage
        self._limits = limits
        self._pool = pool
        self._ahead: dict[tuple[str, int], str] = {}
        """MIME types of media that were validated and are about to be put, by digest and claimed modality."""

    async def upload(
        self, chunks: AsyncIterator[bytes], *, claim: Claim, parent: str
    ) -> tuple[content_pb2.Media, bool]:
        """Stores a stream for a project; returns its reference and whether it existed.

        Raises the reasons of `media_validation`, and QUOTA_EXCEEDED.
        """
        staged = await run_in_pool(self._pool, self._begin)
        try:
            async for chunk in chunks:
                await run_in_pool(self._pool, self._append, staged, chunk)
            sha256 = await run_in_pool(self._pool, self._finish, staged, claim)
            held = {sha256: staged.size_bytes}
            await self._usage.check(parent, held)
            found = await run_in_pool(self._pool, self._known, sha256, claim)
            existed = found is not None
            if found is None:
                # Validated before it is put: what is in the store can be decoded.
                mime_type = await self._sandbox.in_thread(self._validate, staged, sha256, claim)
                found = await run_in_pool(self._pool, self._put, staged, sha256, mime_type, durable=True)
            await self._usage.hold(parent, held, parent=parent)
            return found, existed
        finally:
            await run_in_pool(self._pool, staged.discard)

    def put(self, data: bytes, *, claim: Claim) -> tuple[content_pb2.Media, bool]:
        """Stores bytes from memory (blocking). They survive a power cut after `sync`."""
        known = self._known(hashlib.sha256(data).hexdigest(), claim)
        return (known, True) if known is not None else self._write((data,), claim)

    def validate_ahead(self, media: Iterable[tuple[bytes, int]]) -> None:
        """Validates small media, given as bytes and claimed modality, that are about to be put (blocking).

        Many go with one call to a child, which costs as much as a small picture takes to decode. What is refused, or
        ends the child, is left to its own `put`, which says why.
        """
        if len(self._ahead) > MAX_AHEAD:  # of rows that were set aside before their media were put
            self._ahead.clear()
        small = ((data, modality) for data, modality in media if len(data) <= SMALL_BYTES)
        wanted = {(hashlib.sha256(data).hexdigest(), modality): data for data, modality in small}
        unknown = {key: data for key, data in wanted.items() if self._objects.stat(_key(key[0])) is None}
        for keys in _calls({key: len(data) for key, data in unknown.items()}):
            given = [(np.frombuffer(unknown[key], dtype=np.uint8), key[1]) for key in keys]
            with suppress(MediaError):
                types = self._sandbox.call(validate_together, given, self._limits, refusal=killed_decoder)
                self._ahead.update((key, kind) for key, kind in zip(keys, types, strict=True) if kind)

    def put_many(self, media: Sequence[tuple[bytes, Claim]]) -> list[content_pb2.Media | OmnialignError]:
        """Stores media from memory, and says of each what it is or why it is refused (blocking).

        They survive a power cut after `sync`. Small ones are validated together; the same bytes twice are stored once.
        """
        digests = [hashlib.sha256(data).hexdigest() for data, _ in media]
        found = dict[tuple[str, Claim], content_pb2.Media | OmnialignError]()
        new = dict[tuple[str, Claim], bytes]()
        for digest, (data, claim) in zip(digests, media, strict=True):
            if (digest, claim) not in found and (digest, claim) not in new:
                try:
                    _require_digest(digest, claim)
                    if (known := self._known(digest, claim)) is not None:
                        found[digest, claim] = known
                    else:
                        new[digest, claim] = data
                except OmnialignError as error:
                    found[digest, claim] = error
        valid = dict[str, ValidMedium]()
        for (digest, claim), kind in self._types(new).items():
            if isinstance(kind, OmnialignError):
                found[digest, claim] = kind
            else:
                valid[digest] = ValidMedium(new[digest, claim], digest, kind)
        stored = dict(zip(valid, self.put_valid(list(valid.values())), strict=True))
        found |= {key: stored[key[0]] for key in new if key not in found}
        return [found[digest, claim] for digest, (_, claim) in zip(digests, media, strict=True)]

    def put_valid(self, media: Sequence[ValidMedium]) -> list[content_pb2.Media | OmnialignError]:
        """Stores media that a child of the sandbox has decoded whole, as `validate` does (blocking).

        Each digest must be that of the bytes, computed by this process: a child is not believed.
        """
        return [self._put_valid(medium) for medium in media]

    def put_file(self, path: Path, *, claim: Claim) -> tuple[content_pb2.Media, bool]:
        """Stores a copy of a file without holding it in memory (blocking). It survives a power cut after `sync`."""
        if path.stat().st_size > self._limits.size_bytes:
            raise too_large("bytes", found=path.stat().st_size, limit=self._limits.size_bytes)
        with path.open("rb") as file:
            known = self._known(hashlib.file_digest(file, "sha256").hexdigest(), claim)
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
        return _reference(self._type(sha256), sha256, found.size_bytes)

    def _type(self, sha256: str) -> str:
        """The MIME type of a stored object. Raises MEDIA_CORRUPT."""
        suggested = sniff(self._objects.read(_key(sha256), length=HEAD_BYTES))
        if suggested in CERTAIN:
            return suggested
        try:
            return self._objects.read(_type_key(sha256), length=MAX_TYPE_BYTES).decode()
        except NotFound:  # stored before types were kept
            if not suggested:
                raise _corrupt(sha256) from None
            return suggested

    def stored_size_bytes(self, sha256: str) -> int | None:
        """Hashes a stored object and returns its size (blocking); None if it is missing or damaged."""
        try:
            return sum(len(piece) for piece in self._objects.chunks(_key(sha256), sha256=sha256))
        except (NotFound, DataLoss):
            return None

    async def described(self, sha256: str) -> content_pb2.Media:
        """`describe`, off the event loop."""
        return await run_in_pool(self._pool, self.describe, sha256)

    async def read(self, sha256: str) -> AsyncIterator[tuple[content_pb2.Media | None, bytes]]:
        """The bytes of an object in chunks, the first one with its reference.

        Raises NotFound, or MEDIA_CORRUPT: after the last chunk, and for an object of one chunk before it, if it is the
        digest that does not match.
        """
        pieces = self._objects.chunks(_key(sha256), sha256=sha256)
        try:
            reference, chunk, is_whole = await run_in_pool(self._pool, self._begin_read, sha256, pieces)
            yield reference, chunk
            while not is_whole and (more := await run_in_pool(self._pool, next, pieces, b"")):
                yield None, more
        except NotFound as error:
            raise _missing(sha256) from error
        except DataLoss as error:
            raise _corrupt(sha256) from error
        finally:
            with suppress(ValueError):  # a thread may still be reading for a cancelled call: that read ends by itself
                pieces.close()

    async def read_part(
        self, sha256: str, offset: int, limit: int
    ) -> AsyncIterator[tuple[content_pb2.Media | None, bytes]]:
        """The object's reference, then at most `limit` bytes from `offset` on, or all for 0; no digest is compared.

        Raises NotFound, and MEDIA_CORRUPT for an object that is shorter than it was.
        """
        reference = await self.described(sha256)
        yield reference, b""
        end = min(reference.size_bytes, offset + limit) if limit else reference.size_bytes
        try:
            while offset < end:
                length = min(CHUNK_BYTES, end - offset)
                chunk = await run_in_pool(self._pool, self._read_at, sha256, offset, length)
                if not chunk:
                    raise _corrupt(sha256)
                yield None, chunk
                offset += len(chunk)
        except NotFound as error:
            raise _missing(sha256) from error

    def _read_at(self, sha256: str, offset: int, length: int) -> bytes:
        return self._objects.read(_key(sha256), start=offset, length=length)

    def _begin_read(self, sha256: str, pieces: Iterator[bytes]) -> tuple[content_pb2.Media, bytes, bool]:
        """The reference of an object, its first chunk, and whether that is all: a small one takes a single visit."""
        reference, chunk = self.describe(sha256), next(pieces, b"")
        is_whole = len(chunk) >= reference.size_bytes and next(pieces, None) is None
        return reference, chunk, is_whole

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
            sha256 = self._finish(staged, claim)
            if (known := self._known(sha256, claim)) is not None:
                return known, True
            return self._put(staged, sha256, self._validate(staged, sha256, claim), durable=False), False
        finally:
            staged.discard()

    def _finish(self, staged: StagedFile, claim: Claim) -> str:
        """The digest of what was staged, which must be as claimed."""
        sha256 = staged.finish()
        _require_digest(sha256, claim)
        return sha256

    def _types(self, media: Mapping[tuple[str, Claim], bytes]) -> dict[tuple[str, Claim], str | OmnialignError]:
        """The MIME types of media by digest and claim, or why one is refused."""
        small = {key: data for key, data in media.items() if len(data) <= SMALL_BYTES and not key[1].mime_type}
        found = dict[tuple[str, Claim], str | OmnialignError]()
        for keys in _calls({key: len(data) for key, data in small.items()}):
            given = [(np.frombuffer(small[key], dtype=np.uint8), key[1].modality) for key in keys]
            with suppress(OmnialignError):  # what ends the child is found below, one by one
                types = self._sandbox.call(validate_together, given, self._limits, refusal=killed_decoder)
                found.update((key, kind) for key, kind in zip(keys, types, strict=True) if kind)
        return found | {key: self._type_alone(data, *key) for key, data in media.items() if key not in found}

    def _type_alone(self, data: bytes, sha256: str, claim: Claim) -> str | OmnialignError:
        try:
            staged = self._begin()
            try:
                self._append(staged, data)
                staged.finish()
                return self._validate(staged, sha256, claim)
            finally:
                staged.discard()
        except OmnialignError as error:
            return error

    def _put_valid(self, medium: ValidMedium) -> content_pb2.Media | OmnialignError:
        try:
            staged = self._begin()
            try:
                self._append(staged, medium.data)
                staged.finish()
                return self._put(staged, medium.sha256, medium.mime_type, durable=False)
            finally:
                staged.discard()
        except OmnialignError as error:
            return error

    def _validate(self, staged: StagedFile, sha256: str, claim: Claim) -> str:
        """The MIME type of a file, decoded in a child process (blocking).

        Raises the reasons of `validate`, and MEDIA_KILLED_DECODER.
        """
        if not claim.mime_type and (found := self._ahead.pop((sha256, claim.modality), "")):
            return found
        suggested = sniff(staged.head)
        modality = claim.modality or (modality_of(suggested) if suggested else VIDEO)
        return self._sandbox.call(
            validate,
            staged.path,
            self._limits,
            claim.modality,
            claim.mime_type,
            refusal=killed_decoder,
            key=sha256,
            limits=LIMITS.get(modality, Limits()),
        )

    def _put(self, staged: StagedFile, sha256: str, mime_type: str, *, durable: bool) -> content_pb2.Media:
        if mime_type not in CERTAIN:  # the type first: an object without one could not be described
            self._objects.put_bytes(_type_key(sha256), mime_type.encode())
        self._objects.put(_key(sha256), staged.path, sha256=sha256, durable=durable)
        return _reference(mime_type, sha256, staged.size_bytes)

    def _known(self, sha256: str, claim: Claim) -> content_pb2.Media | None:
        """The reference of an object that is stored whole, which must be as claimed."""
        if (size_bytes := self.stored_size_bytes(sha256)) is None:
            return None
        found = self._type(sha256)
        check_claim(found, modality=claim.modality, mime_type=claim.mime_type)
        return _reference(found, sha256, size_bytes)


def _require_digest(found: str, claim: Claim) -> None:
    if claim.sha256 and claim.sha256 != found:
        message = f"The bytes have the digest {found}, but {claim.sha256} was claimed."
        metadata = {"claimed": claim.sha256, "found": found}
        raise InvalidArgument(message, reason="MEDIA_DIGEST_MISMATCH", metadata=metadata)


def _key(sha256: str) -> str:
    return f"media/sha256/{sha256[:2]}/{sha256[2:]}"


def _type_key(sha256: str) -> str:
    return f"media/types/{sha256[:2]}/{sha256[2:]}"


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def _reference(mime_type: str, sha256: str, size_bytes: int) -> content_pb2.Media:
    modality = content_pb2.Modality.ValueType(modality_of(mime_type))
    return content_pb2.Media(modality=modality, mime_type=mime_type, sha256=sha256, size_bytes=size_bytes)


def _missing(sha256: str) -> NotFound:
    return NotFound(f"There is no media {sha256}.", reason="MEDIA_NOT_FOUND", metadata={"sha256": sha256})


def _corrupt(sha256: str) -> DataLoss:
    message = f"The stored media {sha256} is damaged: upload it again."
    return DataLoss(message, reason="MEDIA_CORRUPT", metadata={"sha256": sha256})


def _calls(sizes: Mapping[K, int]) -> Iterator[list[K]]:
    """The keys in groups of at most CALL_MEDIA media and CALL_BYTES bytes."""
    group, held = list[K](), 0
    for key, size in sizes.items():
        if group and (len(group) == CALL_MEDIA or held + size > CALL_BYTES):
            yield group
            group, held = [], 0
        group.append(key)
        held += size
    if group:
        yield group
