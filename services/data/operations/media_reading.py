"""Fingerprints of stored media: read here, decoded in the sandbox, many small ones with one call."""

import asyncio
from collections.abc import Iterator, Sequence

import numpy as np

from omnialign.errors import DataLoss, NotFound
from omnialign.media import MediaError
from omnialign.v1.content_pb2 import Media
from services.data.media_store import MediaStore
from services.data.operations import fingerprints
from services.data.operations.fingerprints import Fingerprint
from services.sandbox.limits import Limits
from services.sandbox.media import LIMITS, killed_decoder
from services.sandbox.pool import Sandbox

CALL_MEDIA, CALL_BYTES = 16, 4 * 1024 * 1024
"""The most that one call decodes, but for a single larger medium."""


class MediaReader:
    """Reads media and describes them. Holds `calls_at_once` times `CALL_BYTES`, or as many larger media."""

    def __init__(self, media: MediaStore, *, sandbox: Sandbox, calls_at_once: int) -> None:
        self._media, self._sandbox, self._calls_at_once = media, sandbox, calls_at_once

    async def fingerprints(self, media: Sequence[Media]) -> dict[str, Fingerprint]:
        """The fingerprints by digest, without those of media that are gone or do not decode."""
        found, places = dict[str, Fingerprint](), asyncio.Semaphore(self._calls_at_once)

        async def describe(group: Sequence[Media]) -> None:
            async with places:
                found.update(await self._described(group))

        tasks = [asyncio.create_task(describe(group)) for group in _groups(media)]
        try:
            await asyncio.gather(*tasks)
        finally:  # if one has failed, or the call was cancelled
            for task in tasks:
                task.cancel()
        return found

    async def _described(self, group: Sequence[Media]) -> dict[str, Fingerprint]:
        data = {one.sha256: await self._read(one.sha256) for one in group}
        given = [one for one in group if data[one.sha256] is not None]
        if not given:
            return {}
        arrays = [(one.modality, np.frombuffer(data[one.sha256] or b"", dtype=np.uint8)) for one in given]
        try:
            described = await self._sandbox.in_thread(self._call, arrays)
        except MediaError:  # one of them ended the child: each gets a child to itself
            if len(group) == 1:
                return {}
            alone = [await self._described([one]) for one in given]
            return {sha256: found for those in alone for sha256, found in those.items()}
        checked = ((one.sha256, fingerprints.checked(found)) for one, found in zip(given, described, strict=True))
        return {sha256: found for sha256, found in checked if found is not None}

    def _call(self, arrays: Sequence[tuple[int, np.ndarray]]) -> list[Fingerprint | None]:
        limits = max((LIMITS.get(modality, Limits()) for modality, _ in arrays), key=lambda one: one.cpu_seconds)
        return self._sandbox.call(fingerprints.fingerprints, arrays, refusal=killed_decoder, limits=limits)

    async def _read(self, sha256: str) -> bytes | None:
        try:
            return b"".join([chunk async for _, chunk in self._media.read(sha256)])
        except (NotFound, DataLoss):
            return None


def _groups(media: Sequence[Media]) -> Iterator[list[Media]]:
    group, held = list[Media](), 0
    for one in sorted(media, key=lambda one: (one.modality, one.sha256)):  # those of one kind have the same limits
        is_other = bool(group) and group[0].modality != one.modality
        if group and (is_other or len(group) == CALL_MEDIA or held + one.size_bytes > CALL_BYTES):
            yield group
            group, held = [], 0
        group.append(one)
        held += one.size_bytes
    if group:
        yield group
