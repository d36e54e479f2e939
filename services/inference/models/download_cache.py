"""Models downloaded from the data service, each in a folder of its own; the least recently used leave first.

Several processes may share the cache: one downloads a model while the others wait. A model appears complete and
verified, or not at all. The models of different projects lie side by side, so their folders have names that nobody can
guess: a path in the files of one model (`../{digest}/model.safetensors`) leads to no other.
"""

import asyncio
import hmac
import os
import secrets
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Protocol

from omnialign.errors import FailedPrecondition
from omnialign.v1 import model_pb2

KEY_FILE = ".key"
IN_USE_SECONDS = 900.0
"""A model used this recently may be being read, so it stays, even beyond the size limit."""


class Source(Protocol):
    """The part of the SDK that downloads models."""

    async def download_model(self, name: str, to_folder: Path) -> model_pb2.ModelVersion:
        """Downloads a version into a folder, which appears once it is complete."""
        ...


class DownloadCache:
    """A folder of models: `limit_bytes` of them, or a single model that is larger."""

    def __init__(self, folder: Path, *, limit_bytes: int) -> None:
        self._folder, self._limit_bytes = folder, limit_bytes

    async def folder(self, version: model_pb2.ModelVersion, *, source: Source) -> Path:
        """The folder of a version, downloaded if need be. Raises MODEL_CACHE_UNUSABLE and what the SDK raises."""
        try:
            target = await asyncio.to_thread(self.path_of, version.sha256)
            if not await asyncio.to_thread(target.is_dir):
                await asyncio.to_thread(self._make_room, version.size_bytes)
                await source.download_model(version.name, target)
            await asyncio.to_thread(self._mark_used, target)
        except OSError as error:
            message = f"Models cannot be kept in {self._folder} ({error.strerror}): mount a writable volume with room."
            metadata = {"path": str(self._folder)}
            raise FailedPrecondition(message, reason="MODEL_CACHE_UNUSABLE", metadata=metadata) from error
        return target

    def path_of(self, sha256: str) -> Path:
        """The folder for the model of this digest, whether it is there or not."""
        return self._folder / hmac.new(self._key(), sha256.encode(), "sha256").hexdigest()

    def _key(self) -> bytes:
        """The key of this cache, which its processes share."""
        path = self._folder / KEY_FILE
        if not path.exists():
            self._folder.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile(dir=self._folder, prefix=KEY_FILE) as file:  # only this user may read it
                file.write(secrets.token_bytes(32))
                file.flush()
                with suppress(FileExistsError):  # another process was faster
                    os.link(file.name, path)
        return path.read_bytes()

    def touch(self, folder: Path) -> None:
        """Marks an existing folder as used, if it is one of this cache."""
        if folder.parent == self._folder:
            with suppress(OSError):
                self._mark_used(folder)

    def _mark_used(self, folder: Path) -> None:
        # The time is that of a file beside the folder: access times are switched off on many volumes, and inside the
        # folder the file would be part of the model.
        self._used_file(folder).touch()
        os.utime(self._used_file(folder))

    def _make_room(self, wanted_bytes: int) -> None:
        """Removes the least recently used models until `wanted_bytes` fit."""
        self._folder.mkdir(parents=True, exist_ok=True)
        found = sorted((self._used_at(folder), folder) for folder in self._folder.iterdir() if folder.is_dir())
        sizes = {folder: sum(size for size, _ in _files(folder)) for _, folder in found}
        total, now = sum(sizes.values()) + wanted_bytes, time.time()
        for used_at, folder in found:
            if total <= self._limit_bytes or now - used_at < IN_USE_SECONDS:
                return
            total -= sizes[folder]
            self._remove(folder)

    def _used_at(self, folder: Path) -> float:
        """When a folder was last used or written to: one that is being downloaded has new files, and no mark yet."""
        times = [modified_at for _, modified_at in _files(folder)]
        for path in (self._used_file(folder), folder):
            with suppress(FileNotFoundError):
                times.append(path.stat().st_mtime)
        return max(times, default=0.0)

    def _remove(self, folder: Path) -> None:
        """Removes a folder: renamed first, so that it vanishes at once and nobody finds half a model."""
        trash = folder.with_name(f".{folder.name}.removed")
        with suppress(FileNotFoundError):
            folder.replace(trash)
        shutil.rmtree(trash, ignore_errors=True)
        self._used_file(folder).unlink(missing_ok=True)

    def _used_file(self, folder: Path) -> Path:
        return folder.with_name(f".{folder.name}.used")


def _files(folder: Path) -> Iterator[tuple[int, float]]:
    """Size and modification time of each file; other processes may remove files and folders meanwhile."""
    for place, _, names in os.walk(folder):  # passes over a folder that is gone, which `rglob` does not
        for name in names:
            with suppress(FileNotFoundError):
                found = Path(place, name).stat()
                yield found.st_size, found.st_mtime
