"""Validating media before they are put: in a child of the sandbox, small ones many at a time."""

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import numpy as np

from omnialign.errors import InvalidArgument, OmnialignError
from services.data.media_types import HEAD_BYTES, VIDEO, modality_of, sniff
from services.data.media_validation import MediaLimits, too_large, validate, validate_together
from services.data.objects.base import StagedFile
from services.sandbox.limits import Limits
from services.sandbox.media import LIMITS, killed_decoder
from services.sandbox.pool import Sandbox

SMALL_BYTES = 256 * 1024
"""Size up to which several media are validated by one call to a child."""
CALL_BYTES, CALL_MEDIA = 4 * 1024 * 1024, 64
"""The most that such a call takes."""
K = TypeVar("K")


@dataclass(frozen=True)
class Claim:
    """What an upload claims to be; empty fields claim nothing."""

    modality: int = 0
    mime_type: str = ""
    sha256: str = ""

    def require_digest(self, found: str) -> None:
        """Raises MEDIA_DIGEST_MISMATCH unless the bytes have the claimed digest."""
        if self.sha256 and self.sha256 != found:
            message = f"The bytes have the digest {found}, but {self.sha256} was claimed."
            metadata = {"claimed": self.sha256, "found": found}
            raise InvalidArgument(message, reason="MEDIA_DIGEST_MISMATCH", metadata=metadata)


class MediaChecks:
    """Finds the types of media by decoding them whole. Blocking; safe for concurrent threads."""

    def __init__(self, *, scratch: Path, limits: MediaLimits, sandbox: Sandbox) -> None:
        self.limits = limits
        self._scratch, self._sandbox = scratch, sandbox

    def begin(self) -> StagedFile:
        """A file for the bytes of a medium that is coming."""
        return StagedFile(self._scratch, head_bytes=HEAD_BYTES)

    def append(self, staged: StagedFile, chunk: bytes | memoryview) -> None:
        """Adds to a file. Raises MEDIA_TOO_LARGE."""
        self.require_size(staged.size_bytes + len(chunk))
        staged.write(chunk)

    def require_size(self, size_bytes: int) -> None:
        """Raises MEDIA_TOO_LARGE for more than is taken."""
        if size_bytes > self.limits.size_bytes:
            raise too_large("bytes", found=size_bytes, limit=self.limits.size_bytes)

    def type_of(self, staged: StagedFile, sha256: str, claim: Claim) -> str:
        """The MIME type of a file, decoded in a child process.

        Raises the reasons of `validate`, and MEDIA_KILLED_DECODER.
        """
        suggested = sniff(staged.head)
        modality = claim.modality or (modality_of(suggested) if suggested else VIDEO)
        return self._sandbox.call(
            validate,
            staged.path,
            self.limits,
            claim.modality,
            claim.mime_type,
            refusal=killed_decoder,
            key=sha256,
            limits=LIMITS.get(modality, Limits()),
        )

    def types(self, media: Mapping[tuple[str, Claim], bytes]) -> dict[tuple[str, Claim], str | OmnialignError]:
        """The MIME types of media by digest and claim, or why one is refused."""
        small = {
            key: (data, key[1].modality)
            for key, data in media.items()
            if len(data) <= SMALL_BYTES and not key[1].mime_type
        }
        found: dict[tuple[str, Claim], str | OmnialignError] = dict(self._together(small))
        return found | {key: self._alone(data, *key) for key, data in media.items() if key not in found}

    def _together(self, media: Mapping[K, tuple[bytes, int]]) -> dict[K, str]:
        """The types of those of the media that are taken. A call costs as much as a small picture takes to decode."""
        found = dict[K, str]()
        for keys in _calls({key: len(data) for key, (data, _) in media.items()}):
            given = [(np.frombuffer(media[key][0], dtype=np.uint8), media[key][1]) for key in keys]
            with suppress(OmnialignError):
                types = self._sandbox.call(validate_together, given, self.limits, refusal=killed_decoder)
                found.update((key, kind) for key, kind in zip(keys, types, strict=True) if kind)
        return found

    def _alone(self, data: bytes, sha256: str, claim: Claim) -> str | OmnialignError:
        try:
            staged = self.begin()
            try:
                self.append(staged, data)
                staged.finish()
                return self.type_of(staged, sha256, claim)
            finally:
                staged.discard()
        except OmnialignError as error:
            return error


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
