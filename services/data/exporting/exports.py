"""The complete exports of all projects: their files, by link or through the service, until they expire."""

import shutil
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor

from omnialign.errors import FailedPrecondition, NotFound
from omnialign.names import parse
from omnialign.v1.data_service_pb2 import ExportedFile
from services.data.config import DataConfig
from services.data.exporting.ledger import EXPORT, Ledger, Manifest
from services.data.objects import ObjectStore
from services.data.objects.base import run_in_pool
from services.data.store import now_us, timestamp
from services.data.uploads import older
from services.data.usage import Usage

CHUNK_BYTES = 512 * 1024
FOLDER = "export-"
"""How the names of the folders begin into which exports write their parts."""


class Exports:
    """The complete exports."""

    def __init__(
        self, config: DataConfig, *, objects: ObjectStore, ledger: Ledger, pool: ThreadPoolExecutor, usage: Usage
    ) -> None:
        self._config, self._objects, self._ledger, self._pool = config, objects, ledger, pool
        self._usage = usage

    async def files(self, manifest: Manifest) -> list[ExportedFile]:
        """The files of an export, with links if the store has them."""
        return await run_in_pool(self._pool, self._linked, manifest)

    def _linked(self, manifest: Manifest) -> list[ExportedFile]:
        files, seconds = list[ExportedFile](), self._config.link_seconds
        expire_us, has_links = now_us() + int(seconds * 1e6), True
        for entry, key in manifest.files.items():
            file = ExportedFile(path=entry.path, size_bytes=entry.size_bytes, sha256=entry.sha256)
            if has_links:
                try:
                    file.url = self._objects.presign_get(key, seconds=seconds)
                    file.url_expire_time.CopyFrom(timestamp(expire_us))
                except FailedPrecondition:  # local files have no URLs
                    has_links = False
            files.append(file)
        return files

    async def read(self, name: str, path: str, offset: int) -> AsyncIterator[bytes]:
        """The bytes of a file from `offset` on. Raises EXPORT_NOT_FOUND, also if it expired, EXPORT_FILE_NOT_FOUND."""
        manifest = await run_in_pool(self._pool, self._ledger.manifest, parse(name, EXPORT)["export"])
        if manifest is None or manifest.name != name or manifest.expire_us <= now_us():
            raise self._not_found(name)
        found = next(((entry, key) for entry, key in manifest.files.items() if entry.path == path), None)
        if found is None:
            message = f"The export has no file {path[:200]!r}: ExportDataset lists its files."
            raise NotFound(message, reason="EXPORT_FILE_NOT_FOUND", metadata={"name": name, "path": path[:200]})
        entry, key = found
        while offset < entry.size_bytes:
            try:
                chunk = await run_in_pool(self._pool, self._objects.read, key, start=offset, length=CHUNK_BYTES)
            except NotFound as error:
                raise self._not_found(name) from error
            if not chunk:
                raise self._not_found(name)
            yield chunk
            offset += len(chunk)

    async def remove(self, name: str, export_id: str) -> None:
        """Removes an export, which no longer counts for its project."""
        await run_in_pool(self._pool, self._ledger.remove, export_id)
        await self._usage.release(name)

    async def sweep(self) -> int:
        """Removes expired exports and what dead calls left behind; returns the number of exports."""
        await self._usage.forget_expired()
        return await run_in_pool(self._pool, self.remove_expired)

    def remove_expired(self) -> int:
        """`sweep`, without what counts for projects (blocking)."""
        expired = self._ledger.older_than(now_us() - int(self._config.export_seconds * 1e6))
        for export_id in expired:
            self._ledger.remove(export_id)
        for path in older(self._config.root.glob(f"{FOLDER}*"), seconds=self._config.export_seconds):
            shutil.rmtree(path, ignore_errors=True)
        return len(expired)

    def _not_found(self, name: str) -> NotFound:
        message = f"There is no export {name}: they are kept for {self._config.export_seconds:g} s. Export again."
        return NotFound(message, reason="EXPORT_NOT_FOUND", metadata={"name": name})
