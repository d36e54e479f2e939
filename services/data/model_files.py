"""The files of registered models: taken over from uploads, and read for download.

A model in the object store lies below `models/{sha256}/`, and `models/{sha256}.json` lists its files; the list is
written last. A model that was registered in place is read from its folder.
"""

import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor

from omnialign.errors import DataLoss, FailedPrecondition, NotFound
from omnialign.folders import FileEntry, file_entry, list_files
from omnialign.v1.model_pb2 import ModelVersion
from services.data.folders import local_path
from services.data.objects import ObjectStore
from services.data.objects.base import CHUNK_BYTES
from services.data.pool import call
from services.data.uploads import Upload
from services.data.weights import StoredFiles, Weights, examine

WEIGHTS = (".safetensors",)
MAX_MANIFEST_BYTES = 64 * 1024 * 1024


class ModelFiles:
    """Model files in the object store, and in folders where they were registered in place."""

    def __init__(self, *, objects: ObjectStore, pool: ThreadPoolExecutor) -> None:
        self._objects, self._pool = objects, pool

    def admit(self, upload: Upload) -> tuple[str, Weights]:
        """Checks the files of an upload and makes them the registry's own (blocking).

        Gives where they are. Files that are there already are not copied again. Raises the reasons of `examine`.
        """
        weights = examine(StoredFiles(upload.name, upload.files, self._objects))
        uri = f"{self._objects.uri}/models/{weights.sha256}"
        if self._objects.stat(_manifest_key(weights.sha256)) is None:
            for entry, key in upload.files.items():
                self._objects.copy(key, f"models/{weights.sha256}/{entry.path}")
            files = [[entry.path, entry.size_bytes, entry.sha256] for entry in upload.files]
            self._objects.put_bytes(_manifest_key(weights.sha256), json.dumps({"files": files}).encode())
        return uri, weights

    async def read(
        self, version: ModelVersion, *, skip: frozenset[str], weights: bool = True
    ) -> AsyncIterator[FileEntry | bytes]:
        """Each file of a version and then its bytes, in order of path; weights only if they are wanted.

        Raises MODEL_FILES_MISSING, OBJECT_CORRUPT.
        """
        entries = self._entries(version, suffixes=() if weights else WEIGHTS)
        try:
            while (entry := await call(self._pool, next, entries, None)) is not None:
                if entry.path in skip:
                    continue
                yield entry
                pieces = self._pieces(version, entry)
                while (piece := await call(self._pool, next, pieces, None)) is not None:
                    yield piece
        except (NotFound, FileNotFoundError) as error:
            raise _gone(version) from error

    def _entries(self, version: ModelVersion, *, suffixes: tuple[str, ...]) -> Iterator[FileEntry]:
        """The files but those that end so. One of a folder is hashed when it is its turn."""
        if not self._is_stored(version):
            folder = local_path(version.uri, roots=())  # it was allowed when it was registered
            paths = list_files(folder)
            if not paths:
                raise _gone(version)
            yield from (file_entry(path, folder=folder) for path in paths if not path.name.endswith(suffixes))
            return
        manifest = json.loads(self._objects.read(_manifest_key(version.sha256), length=MAX_MANIFEST_BYTES))
        entries = (FileEntry(*entry) for entry in manifest["files"] if not entry[0].endswith(suffixes))
        yield from sorted(entries, key=lambda entry: entry.path.split("/"))

    def _pieces(self, version: ModelVersion, entry: FileEntry) -> Iterator[bytes]:
        if self._is_stored(version):
            yield from self._objects.chunks(f"models/{version.sha256}/{entry.path}", sha256=entry.sha256)
            return
        with (local_path(version.uri, roots=()) / entry.path).open("rb") as file:
            left = entry.size_bytes
            while left and (piece := file.read(min(CHUNK_BYTES, left))):
                left -= len(piece)
                yield piece
        if left:
            message = f"{entry.path} of {version.name} changed while it was read: register the model again."
            raise DataLoss(message, reason="MODEL_CORRUPT", metadata={"name": version.name})

    def _is_stored(self, version: ModelVersion) -> bool:
        return version.uri == f"{self._objects.uri}/models/{version.sha256}"


def _manifest_key(sha256: str) -> str:
    return f"models/{sha256}.json"


def _gone(version: ModelVersion) -> FailedPrecondition:
    message = f"The files of {version.name} are no longer at {version.uri}: register the model again."
    return FailedPrecondition(message, reason="MODEL_FILES_MISSING", metadata={"name": version.name})
