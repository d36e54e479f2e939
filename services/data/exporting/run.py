"""One call that writes an export: media are read, rows written, and each part is stored once it is full."""

import time
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from omnialign.exporting import Form
from omnialign.names import project_name_of
from omnialign.v1.data_service_pb2 import ExportDatasetRequest as Request
from services.data.config import DataConfig
from services.data.datasets import Datasets
from services.data.exporting.ledger import Ledger, Manifest, PartFile, Progress
from services.data.exporting.part import Part, Prepared, prepare
from services.data.objects.base import run_in_pool
from services.data.placed_media import PlacedMedia
from services.data.selection import Selection
from services.data.store import now_us
from services.data.usage import Usage

HELD_BYTES, HELD_ROWS = 4 * 1024 * 1024, 1024
"""About how many bytes of media, and how many rows, are read together and then written."""
PROGRESS_SECONDS = 1.0


@dataclass(frozen=True)
class Stores:
    """What exports read from and write to."""

    config: DataConfig
    datasets: Datasets
    media: PlacedMedia
    ledger: Ledger
    usage: Usage
    pool: ThreadPoolExecutor


class ExportRun:
    """One call that writes an export."""

    def __init__(
        self,
        name: str,
        export_id: str,
        request: Request,
        form: Form,
        stores: Stores,
        *,
        folder: Path,
        begun: tuple[Progress, list[PartFile]],
    ) -> None:
        self._name, self._id, self._request, self._form, self._folder = name, export_id, request, form, folder
        self._stores, self._config, self._pool = stores, stores.config, stores.pool
        self._done, self._files = begun
        self._begun, self._begun_at, self._said_at = time.monotonic(), self._done.records, 0.0
        self._part: Part | None = None
        self._held = list[Prepared]()
        self._wanted = dict[str, int]()
        """The media that those rows need, with their sizes."""

    @property
    def rate(self) -> float:
        """Records per second in this call."""
        now = self._part.progress() if self._part else self._done
        return (now.records - self._begun_at) / max(1e-3, time.monotonic() - self._begun)

    async def write(self, version: str) -> AsyncIterator[Progress]:
        """Writes what is left to write; yields how far the export is."""
        yield self._done
        request, with_media = self._request, not self._request.without_media
        selection = Selection(subtasks=tuple(request.subtasks), splits=tuple(request.splits), after=self._done.after)
        async for batch in self._stores.datasets.stream(version, selection):
            for one in await run_in_pool(self._pool, prepare, batch, self._form, with_media=with_media):
                await self._hold(one)
            if time.monotonic() - self._said_at > PROGRESS_SECONDS and self._part:
                self._said_at = time.monotonic()
                yield self._part.progress()
        await self._write_held()
        if self._part:
            await self._end_part()
        yield self._done

    async def complete(self) -> Manifest:
        """Makes the export visible."""
        complete, expire_us = self._stores.ledger.complete, self._expire_us()
        return await run_in_pool(
            self._pool, complete, self._id, self._name, self._done, self._files, expire_us=expire_us
        )

    async def _hold(self, one: Prepared) -> None:
        """Keeps a row, and writes what is held once it is enough."""
        needed = set(self._current().needed(one.media))
        self._wanted.update((medium.sha256, medium.size_bytes) for medium in one.media if medium.sha256 in needed)
        self._held.append(one)
        if len(self._held) >= HELD_ROWS or sum(self._wanted.values()) >= HELD_BYTES:
            await self._write_held()

    async def _write_held(self) -> None:
        while self._held:
            part = self._current()
            await self._read_held(part)
            del self._held[: await run_in_pool(self._pool, part.add, self._held)]
            if part.is_full:
                await self._end_part()
        self._wanted.clear()

    async def _read_held(self, part: Part) -> None:
        """Reads the media that a part needs of the held rows. What one part has, the next may need again."""
        needed = [(one, sha256) for one in self._held for sha256 in part.needed(one.media) if sha256 not in one.data]
        if needed:
            digests = {sha256 for _, sha256 in needed}
            found = await run_in_pool(self._pool, self._stores.media.fetch, digests)
            for one, sha256 in needed:
                one.data[sha256] = found[sha256]

    def _current(self) -> Part:
        if self._part is None:
            self._part = Part(
                self._folder,
                self._form,
                self._done,
                most_bytes=self._config.export_part_bytes,
                with_media=not self._request.without_media,
            )
        return self._part

    async def _end_part(self) -> None:
        """Stores the part: what it holds counts for the project from then on."""
        part, self._part = self._current(), None
        done, paths = await run_in_pool(self._pool, part.close)
        held = {f"{self._id}-{done.parts}": sum(entry.size_bytes for _, entry in paths)}
        parent = project_name_of(self._name)
        await self._stores.usage.check(parent, held)
        await self._stores.usage.hold(self._name, held, parent=parent, expire_us=self._expire_us())
        put = self._stores.ledger.put_part
        self._files += await run_in_pool(self._pool, put, self._id, done, paths, before=len(self._files))
        await run_in_pool(self._pool, part.discard)
        self._done = done

    def _expire_us(self) -> int:
        return now_us() + int(self._config.export_seconds * 1e6)
