"""The content-addressed media store, in a local folder or a bucket.

A medium is an object of its own, `media/sha256/ab/cdef...`, or lies with other small ones in a pack (`packed_media`).
It is complete or absent: bytes are hashed and validated by decoding, and only then put. Stored bytes have been
validated once, so the same bytes are not decoded again when they come again. What is stored is read again, though, and
if it is damaged the good bytes replace it.

The type of an object is found by decoding it. Where its first bytes would suggest another one, or might, the type is
kept beside it: `media/types/ab/cdef...`. A pack knows the types of its media.
"""

import hashlib
from collections.abc import AsyncIterator, Collection, Generator, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path
from typing import IO

from omnialign.errors import DataLoss, InvalidArgument, NotFound, OmnialignError
from omnialign.v1 import content_pb2
from services.data.garbage.condemned import Condemned
from services.data.media_checks import Claim, MediaChecks
from services.data.media_keys import media_key, type_key
from services.data.media_types import CERTAIN, HEAD_BYTES, modality_of, sniff
from services.data.media_validation import MediaLimits, check_claim
from services.data.objects import ObjectStore
from services.data.objects.base import StagedFile, run_in_pool, verified
from services.data.packed_media import PACKED_BYTES, PREFIX, PackedMedia, Place, ValidMedium
from services.data.store import now_us
from services.data.usage import Usage
from services.sandbox.pool import Sandbox

__all__ = ["Claim", "MediaStore", "ValidMedium"]

CHUNK_BYTES = 256 * 1024
MAX_TYPE_BYTES = 256
READ_TOGETHER = 32
"""Media that are read by one visit to a thread, which nothing interrupts."""
Found = content_pb2.Media | OmnialignError
Key = tuple[str, Claim]


class MediaStore:
    """Media objects by SHA-256. Safe for concurrent threads and processes on one object store."""

    def __init__(
        self,
        objects: ObjectStore,
        *,
        packed: PackedMedia,
        scratch: Path,
        limits: MediaLimits,
        pool: ThreadPoolExecutor,
        sandbox: Sandbox,
        usage: Usage,
        condemned: Condemned,
        unnamed_seconds: float,
    ) -> None:
        """Media that no record names are kept for `unnamed_seconds` after their upload."""
        self._objects, self._packed, self._usage, self._pool = objects, packed, usage, pool
        self._condemned, self._unnamed_us = condemned, int(unnamed_seconds * 1e6)
        self._checks = MediaChecks(scratch=scratch, limits=limits, sandbox=sandbox)
        self._sandbox = sandbox

    async def upload(
        self, chunks: AsyncIterator[bytes], *, claim: Claim, parent: str
    ) -> tuple[content_pb2.Media, bool]:
        """Stores a stream for a project; returns its reference and whether it existed.

        Raises the reasons of `media_validation`, and QUOTA_EXCEEDED.
        """
        staged = await run_in_pool(self._pool, self._checks.begin)
        try:
            async for chunk in chunks:
                await run_in_pool(self._pool, self._checks.append, staged, chunk)
            sha256 = await run_in_pool(self._pool, _finish, staged, claim)
            held = {sha256: staged.size_bytes}
            await self._usage.check(parent, held)
            found = await run_in_pool(self._pool, self._known, sha256, claim)
            existed = found is not None
            if found is None:
                # Validated before it is put: what is in the store can be decoded.
                mime_type = await self._sandbox.in_thread(self._checks.type_of, staged, sha256, claim)
                found = await run_in_pool(self._pool, self._put, staged, sha256, mime_type, durable=True)
            await self._keep([found], parent=parent)
            return found, existed
        finally:
            await run_in_pool(self._pool, staged.discard)

    async def upload_many(self, media: Sequence[tuple[bytes, Claim]], *, parent: str) -> list[Found]:
        """Stores media of a project, and says of each what it is or why it is refused. They survive a power cut."""
        digests = await run_in_pool(self._pool, lambda: [hashlib.sha256(data).hexdigest() for data, _ in media])
        sizes = {digest: len(data) for digest, (data, _) in zip(digests, media, strict=True)}
        unfit = await self._usage.unfit(parent, sizes)
        fit = [one for one, digest in zip(media, digests, strict=True) if digest not in unfit]
        stored = iter(await self._sandbox.in_thread(self.put_many, fit))
        await self.sync()
        found = [unfit[digest] if digest in unfit else next(stored) for digest in digests]
        await self._keep(found, parent=parent)
        return found

    async def find_many(self, claims: Sequence[Claim], *, parent: str) -> list[Found]:
        """What media are that their uploader knows by their digests, kept as if uploaded; NotFound unless stored whole.

        A damaged one counts as missing, so that it is uploaded again.
        """
        keys, stored = [(claim.sha256, claim) for claim in claims], dict[Key, Found]()
        for start in range(0, len(keys), READ_TOGETHER):
            stored |= await run_in_pool(self._pool, self._stored, keys[start : start + READ_TOGETHER])
        unfit = await self._usage.unfit(parent, _sizes(stored.values()))
        found = [unfit.get(key[0]) or stored.get(key) or missing(key[0]) for key in keys]
        await self._keep(found, parent=parent)
        return found

    async def _keep(self, found: Iterable[Found], *, parent: str) -> None:
        """Counts media for a project until records name them."""
        await self._usage.hold(parent, _sizes(found), parent=parent, expire_us=now_us() + self._unnamed_us)

    def put(self, data: bytes, *, claim: Claim) -> tuple[content_pb2.Media, bool]:
        """Stores bytes from memory (blocking). They survive a power cut after `sync`."""
        known = self._known(hashlib.sha256(data).hexdigest(), claim)
        return (known, True) if known is not None else self._write((data,), claim)

    def put_many(self, media: Sequence[tuple[bytes, Claim]]) -> list[Found]:
        """Stores media from memory, and says of each what it is or why it is refused (blocking).

        They survive a power cut after `sync`. Small ones are validated and packed together; the same bytes twice are
        stored once.
        """
        keys = [(hashlib.sha256(data).hexdigest(), claim) for data, claim in media]
        given = {key: data for key, (data, _) in zip(keys, media, strict=True)}
        found = self._stored(given.keys())
        new = {key: data for key, data in given.items() if key not in found}
        valid = dict[str, ValidMedium]()
        for (digest, claim), kind in self._checks.types(new).items():
            if isinstance(kind, OmnialignError):
                found[digest, claim] = kind
            else:
                valid[digest] = ValidMedium(new[digest, claim], digest, kind)
        stored = self._put_new(valid)
        return [found[key] if key in found else stored[key[0]] for key in keys]

    def put_valid(self, media: Sequence[ValidMedium]) -> list[Found]:
        """Stores media that a child of the sandbox has decoded whole, as `validate` does (blocking).

        Each digest must be that of the bytes, computed by this process: a child is not believed. What is stored keeps
        the type that it was stored with.
        """
        claim, digests = Claim(), [medium.sha256 for medium in media]
        self._condemned.pardon(digests)
        places = self._packed.find(digests)
        # An object of its own that nobody holds is put anew: to ask the store for each takes longer.
        held = self._usage.held(digest for digest in digests if digest not in places)
        found = self._stored([(digest, claim) for digest in (*places, *held)])
        new = {medium.sha256: medium for medium in media if (medium.sha256, claim) not in found}
        stored = {digest: one for (digest, _), one in found.items()} | self._put_new(new)
        return [stored[medium.sha256] for medium in media]

    def put_file(self, path: Path, *, claim: Claim) -> tuple[content_pb2.Media, bool]:
        """Stores a copy of a file without holding it in memory (blocking). It survives a power cut after `sync`."""
        self._checks.require_size(path.stat().st_size)
        with path.open("rb") as file:
            known = self._known(hashlib.file_digest(file, "sha256").hexdigest(), claim)
            file.seek(0)
            return (known, True) if known is not None else self._write(_chunks(file), claim)

    async def sync(self) -> None:
        """Waits until all stored objects survive a power cut: one sync for many objects, not one for each.

        An object damaged by a power cut before that is detected by its digest and replaced by the next upload.
        """
        await run_in_pool(self._pool, self._objects.sync)

    def places(self, digests: Iterable[str]) -> dict[str, Place | OmnialignError]:
        """Where media are stored (blocking), or that one is missing: the NotFound of `describe`.

        The type of an object that is not packed is left empty: `type_of` finds it.
        """
        wanted = list(dict.fromkeys(digests))
        packed = self._packed.find(wanted)
        return {digest: packed.get(digest) or self._object_place(digest) for digest in wanted}

    def place(self, sha256: str) -> Place:
        """Where a medium is stored (blocking). Raises NotFound."""
        found = self.places([sha256])[sha256]
        if isinstance(found, OmnialignError):
            raise found
        return found

    def describe(self, sha256: str) -> content_pb2.Media:
        """The reference of a stored object (blocking). Raises NotFound, MEDIA_CORRUPT."""
        place = self.place(sha256)
        return reference(self.type_of(sha256, place), sha256, place.size_bytes)

    def type_of(self, sha256: str, place: Place, *, head: bytes | None = None) -> str:
        """The MIME type of a stored medium (blocking), of which `head` are the first bytes. Raises MEDIA_CORRUPT."""
        if place.mime_type:
            return place.mime_type
        suggested = sniff(self._objects.read(place.key, length=HEAD_BYTES) if head is None else head[:HEAD_BYTES])
        if suggested in CERTAIN:
            return suggested
        try:
            return self._objects.read(type_key(sha256), length=MAX_TYPE_BYTES).decode()
        except NotFound:  # stored before types were kept
            if not suggested:
                raise corrupt(sha256) from None
            return suggested

    async def described(self, sha256: str) -> content_pb2.Media:
        """`describe`, off the event loop."""
        return await run_in_pool(self._pool, self.describe, sha256)

    async def read(self, sha256: str) -> AsyncIterator[tuple[content_pb2.Media | None, bytes]]:
        """The bytes of an object in chunks, the first one with its reference.

        Raises NotFound, or MEDIA_CORRUPT: after the last chunk, and for an object of one chunk before it, if it is the
        digest that does not match.
        """
        place = await run_in_pool(self._pool, self.place, sha256)
        pieces = self._pieces(sha256, place)
        try:
            found, chunk, is_whole = await run_in_pool(self._pool, self._begin_read, sha256, place, pieces)
            yield found, chunk
            while not is_whole and (more := await run_in_pool(self._pool, next, pieces, b"")):
                yield None, more
        except NotFound as error:
            raise missing(sha256) from error
        except DataLoss as error:
            raise corrupt(sha256) from error
        finally:
            with suppress(ValueError):  # a thread may still be reading for a cancelled call: that read ends by itself
                pieces.close()

    async def read_part(
        self, sha256: str, offset: int, limit: int
    ) -> AsyncIterator[tuple[content_pb2.Media | None, bytes]]:
        """The object's reference, then at most `limit` bytes from `offset` on, or all for 0; no digest is compared.

        Raises NotFound, and MEDIA_CORRUPT for an object that is shorter than it was.
        """
        place = await run_in_pool(self._pool, self.place, sha256)
        yield reference(await run_in_pool(self._pool, self.type_of, sha256, place), sha256, place.size_bytes), b""
        end = min(place.size_bytes, offset + limit) if limit else place.size_bytes
        try:
            while offset < end:
                start, length = place.offset + offset, min(CHUNK_BYTES, end - offset)
                chunk = await run_in_pool(self._pool, self._objects.read, place.key, start=start, length=length)
                if not chunk:
                    raise corrupt(sha256)
                yield None, chunk
                offset += len(chunk)
        except NotFound as error:
            raise missing(sha256) from error

    def presign_get(self, sha256: str, *, seconds: float) -> str:
        """A URL to read the bytes from (blocking). Raises PRESIGNING_UNAVAILABLE, NotFound.

        A URL of a pack would give away its neighbours, so a medium in one is first copied to an object of its own.
        """
        key = media_key(sha256)
        url = self._objects.presign_get(key, seconds=seconds)
        place = self._packed.find([sha256]).get(sha256)
        if place is not None and self._objects.stat(key) is None:
            data = b"".join(self._pieces(sha256, place))
            if place.mime_type not in CERTAIN:
                self._objects.put_bytes(type_key(sha256), place.mime_type.encode())
            self._objects.put_bytes(key, data)
        return url

    def _object_place(self, sha256: str) -> Place | OmnialignError:
        found = self._objects.stat(media_key(sha256))
        return Place(found.key, 0, found.size_bytes, "") if found is not None else missing(sha256)

    def _pieces(self, sha256: str, place: Place) -> Generator[bytes, None, None]:
        """The bytes of a medium in pieces, hashed on the way."""
        if not place.key.startswith(PREFIX):
            return self._objects.chunks(place.key, sha256=sha256)
        return verified(self._one_piece(place), key=place.key, sha256=sha256)

    def _one_piece(self, place: Place) -> Iterator[bytes]:
        yield self._objects.read(place.key, start=place.offset, length=place.size_bytes)

    def _begin_read(self, sha256: str, place: Place, pieces: Iterator[bytes]) -> tuple[content_pb2.Media, bytes, bool]:
        """The reference of an object, its first chunk, and whether that is all: a small one takes a single visit."""
        chunk = next(pieces, b"")
        is_whole = len(chunk) >= place.size_bytes and next(pieces, None) is None
        return reference(self.type_of(sha256, place, head=chunk), sha256, place.size_bytes), chunk, is_whole

    def _stored(self, media: Collection[Key]) -> dict[Key, Found]:
        """What to say of media that are stored whole, or that are not what they claim to be. Raises OBJECT_LEAVES."""
        if not media:
            return {}
        self._condemned.pardon(digest for digest, _ in media)
        found, places = dict[Key, Found](), self.places(digest for digest, _ in media)
        for digest, claim in media:
            try:
                claim.require_digest(digest)
                if (whole := self._whole(digest, places[digest], claim)) is not None:
                    found[digest, claim] = whole
            except InvalidArgument as error:
                found[digest, claim] = error
        return found

    def _put_new(self, media: Mapping[str, ValidMedium]) -> dict[str, Found]:
        """Stores media that are not stored, by digest: small ones in packs, unless there is only one."""
        small = {digest: medium for digest, medium in media.items() if len(medium.data) <= PACKED_BYTES}
        found = dict[str, Found]()
        if len(small) > 1:
            try:
                self._packed.add(list(small.values()))
                found |= {one.sha256: reference(one.mime_type, one.sha256, len(one.data)) for one in small.values()}
            except OmnialignError as error:
                found |= dict.fromkeys(small, error)
        alone = {digest: self._put_alone(medium) for digest, medium in media.items() if digest not in found}
        self._packed.forget(_sizes(alone.values()))  # copies in packs, which must have been damaged
        return found | alone

    def _write(self, chunks: Iterable[bytes], claim: Claim) -> tuple[content_pb2.Media, bool]:
        staged = self._checks.begin()
        try:
            for chunk in chunks:
                self._checks.append(staged, chunk)
            sha256 = _finish(staged, claim)
            if (known := self._known(sha256, claim)) is not None:
                return known, True
            mime_type = self._checks.type_of(staged, sha256, claim)
            return self._put(staged, sha256, mime_type, durable=False), False
        finally:
            staged.discard()

    def _put_alone(self, medium: ValidMedium) -> Found:
        try:
            self._checks.require_size(len(medium.data))
            self._put_type(medium.sha256, medium.mime_type)
            self._objects.put_bytes(media_key(medium.sha256), medium.data, durable=False)
        except OmnialignError as error:
            return error
        return reference(medium.mime_type, medium.sha256, len(medium.data))

    def _put(self, staged: StagedFile, sha256: str, mime_type: str, *, durable: bool) -> content_pb2.Media:
        self._put_type(sha256, mime_type)
        self._objects.put(media_key(sha256), staged.path, sha256=sha256, durable=durable)
        self._packed.forget([sha256])
        return reference(mime_type, sha256, staged.size_bytes)

    def _put_type(self, sha256: str, mime_type: str) -> None:
        if mime_type not in CERTAIN:  # before the object: one without a type could not be described
            self._objects.put_bytes(type_key(sha256), mime_type.encode())

    def _known(self, sha256: str, claim: Claim) -> content_pb2.Media | None:
        """The reference of an object that is stored whole, which must be as claimed. Raises OBJECT_LEAVES."""
        found = self._stored([(sha256, claim)]).get((sha256, claim))
        if isinstance(found, OmnialignError):
            raise found
        return found

    def _whole(self, sha256: str, place: Place | OmnialignError, claim: Claim) -> content_pb2.Media | None:
        """The reference of an object if it is stored whole. Raises InvalidArgument if it is not as claimed."""
        if isinstance(place, OmnialignError):
            return None
        try:
            size_bytes = sum(len(piece) for piece in self._pieces(sha256, place))
            found = self.type_of(sha256, place)
        except (NotFound, DataLoss):
            return None
        check_claim(found, modality=claim.modality, mime_type=claim.mime_type)
        return reference(found, sha256, size_bytes)


def missing(sha256: str) -> NotFound:
    """The error for a medium that is not stored."""
    return NotFound(f"There is no media {sha256}.", reason="MEDIA_NOT_FOUND", metadata={"sha256": sha256})


def corrupt(sha256: str) -> DataLoss:
    """The error for a medium whose stored bytes are not those that were put."""
    message = f"The stored media {sha256} is damaged: upload it again."
    return DataLoss(message, reason="MEDIA_CORRUPT", metadata={"sha256": sha256})


def _sizes(found: Iterable[Found]) -> dict[str, int]:
    return {one.sha256: one.size_bytes for one in found if isinstance(one, content_pb2.Media)}


def _finish(staged: StagedFile, claim: Claim) -> str:
    """The digest of what was staged, which must be as claimed."""
    sha256 = staged.finish()
    claim.require_digest(sha256)
    return sha256


def _chunks(file: IO[bytes]) -> Iterator[bytes]:
    while chunk := file.read(CHUNK_BYTES):
        yield chunk


def reference(mime_type: str, sha256: str, size_bytes: int) -> content_pb2.Media:
    """What a medium is."""
    modality = content_pb2.Modality.ValueType(modality_of(mime_type))
    return content_pb2.Media(modality=modality, mime_type=mime_type, sha256=sha256, size_bytes=size_bytes)
