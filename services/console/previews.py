"""Previews of stored media, and waveforms of sounds: made in the sandbox when they are asked for, and kept for a while.

What is kept is bounded, in memory, and gone with the process: any replica can make it again. Who may see a medium is
the data service's to say, so callers ask that before they ask here.
"""

import asyncio
import contextlib
import tempfile
from collections import OrderedDict
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from omnialign.client import AsyncClient
from omnialign.errors import InvalidArgument, ResourceExhausted
from omnialign.v1 import content_pb2
from services.console import transcoding
from services.sandbox.limits import Limits
from services.sandbox.media import killed_decoder
from services.sandbox.pool import Sandbox

SHOWN: dict[str, str] = {
    "image/png": "png", "image/jpeg": "jpg", "image/gif": "gif", "image/webp": "webp", "image/bmp": "bmp",
    "audio/wav": "wav", "audio/mpeg": "mp3", "audio/ogg": "ogg", "audio/flac": "flac", "audio/mp4": "m4a",
    "audio/aac": "aac", "audio/webm": "weba",
    "video/mp4": "mp4", "video/webm": "webm", "video/ogg": "ogv",
}  # fmt: skip
"""Types that browsers show, and how such files are called."""
AUDIO = content_pb2.MODALITY_AUDIO
TYPES = {
    content_pb2.MODALITY_IMAGE: ("image/png", "png"),
    AUDIO: ("audio/webm", "weba"),
    content_pb2.MODALITY_VIDEO: ("video/webm", "webm"),
}
"""Type and suffix of a preview, by modality."""
LIMITS = Limits(cpu_seconds=90, wall_seconds=300, memory_bytes=768 << 20)
FETCH_SECONDS = 300.0
MADE_AT_ONCE, MAX_WAITING = 2, 64


class Previews:
    """Makes previews, each once for all who ask for it meanwhile. Made inside a running event loop."""

    def __init__(self, sandbox: Sandbox, *, max_source_bytes: int, kept_bytes: int) -> None:
        self._sandbox, self._max_source_bytes, self._kept_bytes = sandbox, max_source_bytes, kept_bytes
        self._slots = asyncio.Semaphore(MADE_AT_ONCE)
        self._making: dict[tuple[str, str], asyncio.Task[NDArray[Any]]] = {}
        self._kept: OrderedDict[tuple[str, str], NDArray[Any]] = OrderedDict()

    async def preview(self, client: AsyncClient, medium: content_pb2.Media) -> bytes:
        """A medium as browsers show it, of the type in TYPES.

        Raises InvalidArgument PREVIEW_SOURCE_TOO_LARGE, ResourceExhausted PREVIEWS_BUSY, and MediaError: what decoding
        raises, and MEDIA_KILLED_DECODER.
        """
        return (await self._made("preview", client, medium)).tobytes()

    async def peaks(self, client: AsyncClient, medium: content_pb2.Media) -> NDArray[np.float32]:
        """The lowest and the highest sample of each stretch of a sound, `(stretches, 2)`; raises as `preview`."""
        return await self._made("peaks", client, medium)

    async def close(self) -> None:
        """Ends what is being made."""
        for task in self._making.values():
            task.cancel()
        await asyncio.gather(*self._making.values(), return_exceptions=True)

    async def _made(self, kind: str, client: AsyncClient, medium: content_pb2.Media) -> NDArray[Any]:
        key = (kind, medium.sha256)
        if key in self._kept:
            self._kept.move_to_end(key)
            return self._kept[key]
        if key not in self._making:
            self._check(medium)
            self._making[key] = asyncio.create_task(self._make(kind, client, medium), name=f"{kind} of a medium")
            self._making[key].add_done_callback(lambda done: self._keep(key, done))
        return await asyncio.shield(self._making[key])  # others may wait for it, too

    def _check(self, medium: content_pb2.Media) -> None:
        if medium.size_bytes > self._max_source_bytes:
            raise InvalidArgument(
                f"The file has {medium.size_bytes} bytes, and previews are made of at most {self._max_source_bytes}; "
                "download it instead.",
                reason="PREVIEW_SOURCE_TOO_LARGE",
                metadata={"size_bytes": str(medium.size_bytes), "limit_bytes": str(self._max_source_bytes)},
            )
        if len(self._making) >= MAX_WAITING:
            raise ResourceExhausted("Many previews are being made; try again in a minute.", reason="PREVIEWS_BUSY")

    def _keep(self, key: tuple[str, str], done: "asyncio.Task[NDArray[Any]]") -> None:
        del self._making[key]
        if done.cancelled() or done.exception() is not None:
            return
        self._kept[key] = done.result()
        while sum(one.nbytes for one in self._kept.values()) > self._kept_bytes:
            self._kept.popitem(last=False)

    async def _make(self, kind: str, client: AsyncClient, medium: content_pb2.Media) -> NDArray[Any]:
        async with self._slots:
            with tempfile.NamedTemporaryFile(prefix="omnialign-preview-") as file:
                parts = client.stream_media(medium.sha256, deadline_seconds=FETCH_SECONDS)
                async with contextlib.aclosing(parts) as found:  # type: ignore[type-var]  # a generator, typed as iterator
                    async for part in found:
                        file.write(part.chunk)
                file.flush()
                arguments: tuple[Any, ...] = (transcoding.peaks, Path(file.name))
                if kind == "preview":
                    arguments = (transcoding.preview, Path(file.name), medium.modality)
                call = partial(
                    self._sandbox.call, *arguments, refusal=killed_decoder, key=f"{kind} {medium.sha256}", limits=LIMITS
                )
                return await self._sandbox.in_thread(call)
