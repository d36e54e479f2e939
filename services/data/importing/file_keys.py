"""What tells whether a data file, and all that says how it is read, is the same as in an earlier import."""

import asyncio
import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import omnialign
from omnialign.v1.data_service_pb2 import ImportDatasetRequest
from services.data.importing.sources import SourceFile
from services.data.media_validation import MediaLimits
from services.data.objects.base import run_in_pool

CHUNK_BYTES = 1024 * 1024
STRETCH_BYTES = 32 * CHUNK_BYTES
"""What one thread hashes at a time: a large file is hashed by many."""


@dataclass(frozen=True)
class FileState:
    """A file as it was when it was hashed."""

    path: Path
    stat: tuple[int, int, int]

    @classmethod
    def of(cls, path: Path) -> "FileState":
        """The file now."""
        found = path.stat()
        return cls(path, (found.st_ino, found.st_size, found.st_mtime_ns))

    def is_same(self) -> bool:
        """Whether it has not been changed since."""
        try:
            return FileState.of(self.path) == self
        except OSError:
            return False


def name_of(file: SourceFile) -> str:
    """What the versions of a file have in common."""
    return f"{file.split}/{file.name}"


async def key_of(file: SourceFile, request: ImportDatasetRequest, limits: MediaLimits, pool: ThreadPoolExecutor) -> str:
    """The digest of a file's bytes, its name, the request, the limits on media, and this release."""
    size = file.path.stat().st_size
    stretches = (run_in_pool(pool, _stretch, file.path, start) for start in range(0, size, STRETCH_BYTES))
    digests = await asyncio.gather(*stretches)
    asked = ImportDatasetRequest()
    asked.CopyFrom(request)
    for field in ("parent", "dataset_id", "source_uri"):
        asked.ClearField(field)
    told = [omnialign.__version__, repr(limits), asked.SerializeToString(deterministic=True).hex()]
    told += [file.name, file.subtask, file.split, file.format, file.told_by, str(size), *digests]
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _stretch(path: Path, start: int) -> str:
    digest, end = hashlib.sha256(), start + STRETCH_BYTES
    with path.open("rb", buffering=0) as file:
        while start < end and (chunk := os.pread(file.fileno(), CHUNK_BYTES, start)):
            digest.update(chunk)
            start += len(chunk)
    return digest.hexdigest()
