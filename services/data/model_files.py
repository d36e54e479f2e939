"""The files of models, in the object store or in the folders where they were registered in place.

A model in the object store lies below `models/{sha256}/`, and the manifest `models/{sha256}.json` lists its files. The
manifest is written last.
"""

import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

from omnialign.errors import DataLoss, FailedPrecondition, NotFound
from omnialign.folders import FileEntry, file_entry, list_files
from omnialign.v1.model_pb2 import ModelVersion
from services.data.objects import ObjectStore
from services.data.objects.base import CHUNK_BYTES, run_in_pool
from services.data.uploads import Upload, local_path
from services.data.weights import Weights, inspect_upload

WEIGHTS = (".safetensors",)
MAX_MANIFEST_BYTES = 64 * 1024 * 1024


class ModelFiles:
    """The files of all models."""

    def __init__(self, *, objects: ObjectStore, pool: ThreadPoolExecutor) -> None:
        self._objects, self._pool = objects, pool

    def admit(self, upload: Upload) -> tuple[str, Weights]:
        """Checks the files of an upload and copies them into the registry (blocking).

        Returns their URI. Files that the registry has are not copied again. Raises the reasons of `inspect_upload`.
        """
        weights = inspect_upload(upload.name, upload.files, self._objects)
        uri = f"{self._objects.uri}/models/{weights.sha256}"
        if self._objects.stat(_manifest_key(weights.sha256)) is None:
            for entry, key in upload.files.items():
                self._objects.copy(key, f"models/{weights.sha256}/{entry.path}")
            # The manifest comes last: it says that all files are there. After a crash before it, the next call copies
            # them again.
            files = [[entry.path, entry.size_bytes, entry.sha256] for entry in upload.files]
            self._objects.put_bytes(_manifest_key(weights.sha256), json.dumps({"files": files}).encode())
        return uri, weights

    async def read(
        self, version: ModelVersion, *, skip: frozenset[str], weights: bool = True
    ) -> AsyncIterator[FileEntry | bytes]:
        """Each file of a version followed by its bytes, in order of path; weights only if `weights`.

        Raises MODEL_FILES_MISSING, OBJECT_CORRUPT.
        """
        entries = self._entries(version, suffixes=() if weights else WEIGHTS)
        try:
            while (entry := await run_in_pool(self._pool, next, entries, None)) is not None:
                if entry.path in skip:
                    continue
                yield entry
                pieces = self._pieces(version, entry)
                while (piece := await run_in_pool(self._pool, next, pieces, None)) is not None:
                    yield piece
        except (NotFound, FileNotFoundError) as error:
            raise _gone(version) from error

    def remove(self, sha256: str) -> None:
        """Removes files from the registry (blocking). The manifest goes first: it says that all files are there."""
        self._objects.delete(_manifest_key(sha256))
        self._objects.delete_below(f"models/{sha256}/")

    def _entries(self, version: ModelVersion, *, suffixes: tuple[str, ...]) -> Iterator[FileEntry]:
        """The files except those with one of `suffixes`. Files in a folder are hashed when they are reached."""
        if not self.is_stored(version):
            folder = local_path(version.uri, roots=())  # checked when it was registered
            paths = list_files(folder)
            if not paths:
                raise _gone(version)
            yield from (file_entry(path, folder=folder) for path in paths if not path.name.endswith(suffixes))
            return
        manifest = json.loads(self._objects.read(_manifest_key(version.sha256), length=MAX_MANIFEST_BYTES))
        entries = (FileEntry(*entry) for entry in manifest["files"] if not entry[0].endswith(suffixes))
        yield from sorted(entries, key=lambda entry: entry.path.split("/"))

    def _pieces(self, version: ModelVersion, entry: FileEntry) -> Iterator[bytes]:
        if self.is_stored(version):
            yield from self._objects.chunks(f"models/{version.sha256}/{entry.path}", sha256=entry.sha256)
            return
        with (local_path(version.uri, roots=()) / entry.path).open("rb") as file:
            left = entry.size_bytes
            while left and (piece := file.read(min(CHUNK_BYTES, left))):
                left -= len(piece)
                yield piece
        if left:
            message = f"{entry.path} of {version.name} changed while it was being read: register the model again."
            raise DataLoss(message, reason="MODEL_CORRUPT", metadata={"name": version.name})

    def is_stored(self, version: ModelVersion) -> bool:
        """Whether the files of a version are in the object store, not where they were registered."""
        return version.uri == f"{self._objects.uri}/models/{version.sha256}"


def _manifest_key(sha256: str) -> str:
    return f"models/{sha256}.json"


def _gone(version: ModelVersion) -> FailedPrecondition:
    message = f"The files of {version.name} are no longer at {version.uri}: register the model again."
    return FailedPrecondition(message, reason="MODEL_FILES_MISSING", metadata={"name": version.name})
