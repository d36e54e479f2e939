"""The model registry: numbered, immutable versions, each a set of files that were hashed when they were registered.

A model in the object store lies below `models/{sha256}/`, and the manifest `models/{sha256}.json` lists its files. The
manifest is written last. A model that was registered in place is read from its folder.
"""

import json
from collections.abc import AsyncIterator, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from omnialign.errors import Aborted, DataLoss, FailedPrecondition, NotFound
from omnialign.folders import FileEntry, file_entry, list_files
from omnialign.modeling.lora import check_base_in_project, lora_of_lora
from omnialign.names import MODEL_VERSION, PROJECT, parse, unversioned
from omnialign.v1.data_service_pb2 import LineageEdge
from omnialign.v1.model_pb2 import ModelVersion
from services.data.config import DataConfig
from services.data.datasets import COMMIT_ATTEMPTS, version_number
from services.data.errors import version_not_found
from services.data.objects import ObjectStore
from services.data.objects.base import CHUNK_BYTES, run_in_pool
from services.data.store import Store, now_us, timestamp
from services.data.uploads import Upload, Uploads, is_upload, local_path
from services.data.weights import Weights, inspect_folder, inspect_upload

WEIGHTS = (".safetensors",)
MAX_MANIFEST_BYTES = 64 * 1024 * 1024


class ModelFiles:
    """The files of models, in the object store or in the folders where they were registered in place."""

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

    def _entries(self, version: ModelVersion, *, suffixes: tuple[str, ...]) -> Iterator[FileEntry]:
        """The files except those with one of `suffixes`. Files in a folder are hashed when they are reached."""
        if not self._is_stored(version):
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
        if self._is_stored(version):
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

    def _is_stored(self, version: ModelVersion) -> bool:
        return version.uri == f"{self._objects.uri}/models/{version.sha256}"


class Models:
    """The models of all projects."""

    def __init__(
        self, config: DataConfig, *, store: Store, uploads: Uploads, files: ModelFiles, pool: ThreadPoolExecutor
    ) -> None:
        self._config, self._store, self._pool = config, store, pool
        self._uploads, self._files = uploads, files

    async def register(
        self, parent: str, model_id: str, *, wanted: ModelVersion, sources: Sequence[str]
    ) -> ModelVersion:
        """Registers a folder or an upload, and what it was made from. Unchanged files return the newest version.

        A LoRA is also made from its base. Raises the reasons of `inspect_folder` and `local_path`,
        UPLOAD_NOT_FOUND, and for a LoRA those of its base.
        """
        if is_upload(wanted.uri):
            upload = await self._uploads.get(wanted.uri, parent=parent)
            uri, weights = await run_in_pool(self._pool, self._files.admit, upload)
        else:
            path = local_path(wanted.uri, roots=self._config.roots())
            uri, weights = path.as_uri(), await run_in_pool(self._pool, self._inspect, path)
        base = await self._base(weights, parent=parent, name=wanted.uri)
        version = await self._add(f"{parent}/models/{model_id}", uri, wanted, weights)
        made_from = dict.fromkeys([*sources, *base])
        edges = [LineageEdge(source=source, target=version.name, relation="made_from") for source in made_from]
        await self._store.add_edges(parent, edges)
        return version

    def _inspect(self, folder: Path) -> Weights:
        """`inspect_folder`, for a folder without links that lead out of the import roots. Raises PATH_FORBIDDEN."""
        for path in list_files(folder):
            local_path(str(path), roots=self._config.roots())
        return inspect_folder(folder)

    async def get(self, name: str) -> ModelVersion:
        """One version; `-` is the newest. Raises MODEL_VERSION_NOT_FOUND."""
        parts = parse(name, MODEL_VERSION)
        found = await self._store.model(unversioned(name), version_number(parts["version"]))
        if found is None:
            raise version_not_found("MODEL_VERSION", name)
        return found[1]

    async def download(
        self, name: str, *, skip: Sequence[str] = (), weights: bool = True
    ) -> AsyncIterator[ModelVersion | FileEntry | bytes]:
        """A version, then each file followed by its bytes. Raises the reasons of `get` and `ModelFiles.read`."""
        version = await self.get(name)
        yield version
        async for part in self._files.read(version, skip=frozenset(skip), weights=weights):
            yield part

    async def list_versions(self, parent: str, *, after: list[str], limit: int) -> tuple[list[ModelVersion], list[str]]:
        """A page of model versions, newest first, and the position after it; empty on the last page."""
        parse(parent, PROJECT)
        rows = await self._store.models(parent, after=after, limit=limit + 1)
        return [version for _, version in rows[:limit]], rows[limit - 1][0] if len(rows) > limit else []

    async def _base(self, weights: Weights, *, parent: str, name: str) -> list[str]:
        """The base of a LoRA, which must be a full model in the same project; empty for other models.

        Raises BASE_MODEL_NOT_IN_PROJECT, MODEL_VERSION_NOT_FOUND, LORA_OF_LORA.
        """
        if weights.lora is None:
            return []
        check_base_in_project(weights.lora, name=name, parent=parent)
        if (await self.get(weights.lora.base)).lora_base:
            raise lora_of_lora(name, weights.lora.base)
        return [weights.lora.base]

    async def _add(self, model: str, uri: str, wanted: ModelVersion, weights: Weights) -> ModelVersion:
        # Optimistic: take the next number, and look again if another caller took it first.
        for _ in range(COMMIT_ATTEMPTS):
            newest = await self._store.model(model, None)
            if newest is not None and newest[1].sha256 == weights.sha256:
                return newest[1]
            number, created_us = newest[0] + 1 if newest else 1, now_us()
            version = ModelVersion(name=f"{model}/versions/{number}", uri=uri, display_name=wanted.display_name)
            version.labels.update(wanted.labels)
            version.sha256, version.size_bytes = weights.sha256, weights.size_bytes
            version.parameter_count = weights.parameter_count
            version.lora_base = weights.lora.base if weights.lora else ""
            version.create_time.CopyFrom(timestamp(created_us))
            if await self._store.add_model(version, model=model, number=number, created_us=created_us):
                return version
        raise Aborted(f"Other callers keep registering {model}: try again.", reason="COMMIT_CONFLICT")


def _manifest_key(sha256: str) -> str:
    return f"models/{sha256}.json"


def _gone(version: ModelVersion) -> FailedPrecondition:
    message = f"The files of {version.name} are no longer at {version.uri}: register the model again."
    return FailedPrecondition(message, reason="MODEL_FILES_MISSING", metadata={"name": version.name})
