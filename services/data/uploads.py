"""The files that callers hand over: uploads, which are kept for a day, and local paths inside the allowed folders.

The files of an upload are stored under their number and digest, never under the caller's paths. Their names are in the
manifest, which is written last: an upload without a manifest does not exist. The id of an upload with a request id is
made of it, so that a call that goes on with a broken one finds what that one stored.
"""

import hashlib
import itertools
import json
import os
import re
import shutil
import time
import uuid
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import unquote, urlsplit

from omnialign.errors import InvalidArgument, NotFound, PermissionDenied, ResourceExhausted
from omnialign.folders import FileEntry
from omnialign.names import matches, parse
from omnialign.v1.data_service_pb2 import UploadedFile, UploadFilesResponse
from services.data.config import DataConfig
from services.data.objects import ObjectStore
from services.data.objects.base import StagedFile, run_in_pool
from services.data.store import now_us, timestamp
from services.data.upload_receiver import MAX_MANIFEST_BYTES, PREFIX, UploadReceiver, manifest_key
from services.data.usage import Usage

UPLOAD = "projects/{project}/uploads/{upload}"
IMPORT_FOLDER = "import-"
"""How the names of the folders begin into which imports download their uploads."""


@dataclass(frozen=True)
class Upload:
    """A complete upload: its files, each with its key in the object store."""

    name: str
    files: dict[FileEntry, str]


def is_upload(name: str) -> bool:
    """Whether a URI is the name of an upload."""
    return matches(name, UPLOAD)


def local_path(uri: str, *, roots: Sequence[Path]) -> Path:
    """The resolved path that `uri` names; it need not exist. Raises URI_UNSUPPORTED, PATH_FORBIDDEN."""
    path = _as_path(uri)
    if "\0" in str(path) or not path.is_absolute():
        raise InvalidArgument("The address must be an absolute path.", reason="URI_UNSUPPORTED", metadata={"uri": uri})
    resolved = path.resolve()  # links are followed first: one inside a root may lead out of it
    if roots and not any(resolved.is_relative_to(root) for root in roots):
        message = f"{uri} is outside the folders that this service may read: see OMNIALIGN_DATA_IMPORT_ROOTS."
        raise PermissionDenied(message, reason="PATH_FORBIDDEN", metadata={"uri": uri})
    return resolved


def _as_path(uri: str) -> Path:
    parts = urlsplit(uri)
    if not parts.scheme:
        return Path(uri)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        message = f"{uri} is not a local path: give a plain path or a file:// address."
        raise InvalidArgument(message, reason="URI_UNSUPPORTED", metadata={"uri": uri})
    return Path(unquote(parts.path))


class Uploads:
    """The uploads of all projects."""

    def __init__(
        self, config: DataConfig, *, objects: ObjectStore, scratch: Path, pool: ThreadPoolExecutor, usage: Usage
    ) -> None:
        self._config, self._objects, self._scratch, self._pool = config, objects, scratch, pool
        self._usage = usage

    async def receive(
        self, parent: str, messages: AsyncIterator[UploadedFile | bytes], *, request_id: str = ""
    ) -> UploadFilesResponse:
        """Receives files, each as its description followed by its bytes, which may be missing from those that an
        earlier call with this `request_id` brought.

        Raises UPLOAD_PATH_INVALID, UPLOAD_FILE_MISSING, UPLOAD_TRUNCATED, UPLOAD_DIGEST_MISMATCH, UPLOAD_EMPTY,
        UPLOAD_TOO_LARGE, REQUEST_ID_REUSED, QUOTA_EXCEEDED.
        """
        upload_id = _id_of(parent, request_id) if request_id else uuid.uuid4().hex
        stored = await run_in_pool(self._pool, self._stored, upload_id) if request_id else {}
        receiver = UploadReceiver(self._config, self._objects, self._scratch, upload_id=upload_id, stored=stored)
        checked_bytes = 0
        try:
            async for message in messages:
                step = receiver.begin if isinstance(message, UploadedFile) else receiver.write
                await run_in_pool(self._pool, step, message)  # type: ignore[arg-type]
                if receiver.size_bytes > 2 * checked_bytes:  # as files are announced; not at each of thousands
                    checked_bytes = receiver.size_bytes
                    await self._usage.check(parent, {receiver.id: checked_bytes})
            await self._usage.check(parent, {receiver.id: receiver.size_bytes})
            name = f"{parent}/uploads/{receiver.id}"
            held = {receiver.id: receiver.size_bytes}
            await self._usage.hold(name, held, parent=parent, expire_us=receiver.expire_us)
            await run_in_pool(self._pool, receiver.finish, name)
        except BaseException as error:
            # Files of a call that may be repeated stay, so that the next one goes on from there.
            may_go_on = stored or (request_id and not isinstance(error, ResourceExhausted))
            with suppress(RuntimeError):  # the pool has shut down: the sweep removes the files
                self._pool.submit(receiver.discard if may_go_on else receiver.abandon)
            raise
        answer = UploadFilesResponse(upload=name, file_count=len(receiver.files), size_bytes=receiver.size_bytes)
        answer.expire_time.CopyFrom(timestamp(receiver.expire_us))
        return answer

    async def received_count(self, parent: str, request_id: str) -> int:
        """How many files of an upload are stored, from the first on."""
        stored = await run_in_pool(self._pool, self._stored, _id_of(parent, request_id))
        numbers = {number for number, _ in stored}
        return next(count for count in itertools.count() if count not in numbers)

    def _stored(self, upload_id: str) -> dict[tuple[int, str], int]:
        """The size of each stored file of an upload, by its number and digest (blocking)."""
        found: dict[tuple[int, str], int] = {}
        for info in self._objects.list(f"{PREFIX}{upload_id}/"):
            number, _, sha256 = info.key.rpartition("/")[2].partition("-")
            found[int(number), sha256] = info.size_bytes
        return found

    async def get(self, name: str, *, parent: str) -> Upload:
        """A complete upload of a project. Raises UPLOAD_NOT_FOUND, also for an expired upload."""
        upload_id = parse(name, UPLOAD)["upload"]
        if re.fullmatch(r"[0-9a-f]{32}", upload_id):
            with suppress(NotFound):
                blob = await run_in_pool(
                    self._pool, self._objects.read, manifest_key(upload_id), length=MAX_MANIFEST_BYTES
                )
                manifest = json.loads(blob)
                if manifest["name"] == name and name.startswith(f"{parent}/") and manifest["expire_us"] > now_us():
                    return Upload(name, {FileEntry(*entry): key for *entry, key in manifest["files"]})
        raise self._not_found(name)

    @contextmanager
    def reading(self, upload: Upload) -> Iterator[None]:
        """Within it, a file of an upload that is gone says that the upload expired meanwhile: UPLOAD_NOT_FOUND."""
        try:
            yield
        except NotFound as error:
            if not error.metadata.get("key", "").startswith(PREFIX):
                raise
            raise self._not_found(upload.name) from error

    def _not_found(self, name: str) -> NotFound:
        message = (
            f"There is no upload {name}: they are kept for {self._config.upload_seconds:g} s. Upload the files again."
        )
        return NotFound(message, reason="UPLOAD_NOT_FOUND", metadata={"name": name})

    def fetch(self, upload: Upload, folder: Path) -> None:
        """Downloads the files into a local folder (blocking). Raises OBJECT_CORRUPT, STORAGE_FULL."""
        for entry, key in upload.files.items():
            staged = StagedFile(self._scratch)
            try:
                for piece in self._objects.chunks(key, sha256=entry.sha256):
                    staged.write(piece)
                staged.finish()
                target = folder / entry.path
                target.parent.mkdir(parents=True, exist_ok=True)
                # The same bytes have the same time of change, so that an import of another upload knows them again.
                os.utime(staged.path, ns=(time.time_ns(), int(entry.sha256[:15], 16)))
                staged.path.replace(target)
            finally:
                staged.discard()

    async def sweep(self) -> int:
        """`remove_expired`, off the event loop; they no longer count for their projects."""
        await self._usage.forget_expired()
        return await run_in_pool(self._pool, self.remove_expired)

    def remove_expired(self) -> int:
        """Removes expired uploads and what dead calls left behind (blocking); returns the number of uploads removed.

        An upload is as old as its newest object, so one that still grows is kept. The manifest of an expired one goes
        first: an upload that can be found has all its files.
        """
        oldest_us = now_us() - int(self._config.upload_seconds * 1e6)
        newest_us: dict[str, int] = {}
        for found in self._objects.list(PREFIX):
            upload_id = found.key.removeprefix(PREFIX).partition("/")[0].removesuffix(".json")
            newest_us[upload_id] = max(newest_us.get(upload_id, 0), found.modified_us)
        expired = [upload_id for upload_id, modified_us in newest_us.items() if modified_us < oldest_us]
        for upload_id in expired:
            self._objects.delete(manifest_key(upload_id))
            self._objects.delete_below(f"{PREFIX}{upload_id}/")
        for path in older(self._scratch.iterdir(), seconds=self._config.upload_seconds):
            path.unlink(missing_ok=True)
        # An import downloads its upload into a folder, which a killed process leaves behind.
        for path in older(self._config.root.glob(f"{IMPORT_FOLDER}*"), seconds=self._config.upload_seconds):
            shutil.rmtree(path, ignore_errors=True)
        return len(expired)


def _id_of(parent: str, request_id: str) -> str:
    """The id of the upload with a request id: hashed, as nobody else may guess or choose the names of uploads."""
    return hashlib.sha256(f"{parent}\0{request_id.lower()}".encode()).hexdigest()[:32]


def older(paths: Iterable[Path], *, seconds: float) -> Iterator[Path]:
    """Those of the files and folders that were last changed longer ago."""
    oldest = time.time() - seconds
    for path in paths:
        with suppress(FileNotFoundError):
            if _newest_time(path) < oldest:
                yield path


def _newest_time(path: Path) -> float:
    """When a file, or the newest of what a folder holds, was last changed: a folder that still grows is kept."""
    return max(found.stat().st_mtime for found in (path, *path.rglob("*")))
