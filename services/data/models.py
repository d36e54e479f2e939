"""The model registry: numbered, immutable versions, each files whose bytes were hashed when they were registered."""

from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor

from omnialign.errors import Aborted
from omnialign.folders import FileEntry
from omnialign.modeling.lora import check_base_in_project, lora_of_lora
from omnialign.names import MODEL_VERSION, PROJECT, parse, unversioned
from omnialign.v1.data_service_pb2 import LineageEdge
from omnialign.v1.model_pb2 import ModelVersion
from services.data.clock import now_us, timestamp
from services.data.config import DataConfig
from services.data.datasets import COMMIT_ATTEMPTS, missing, version_number
from services.data.folders import local_path
from services.data.model_files import ModelFiles
from services.data.pool import call
from services.data.store import Store
from services.data.uploads import Uploads, is_upload
from services.data.weights import Weights, inspect


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
        """Registers a folder or an upload, and where it came from. The bytes of the newest version are that version.

        A LoRA is made from its base too. Raises the reasons of `weights.inspect` and `folders.local_path`,
        UPLOAD_NOT_FOUND, and for a LoRA those of its base.
        """
        if is_upload(wanted.uri):
            upload = await self._uploads.get(wanted.uri, parent=parent)
            uri, weights = await call(self._pool, self._files.admit, upload)
        else:
            path = local_path(wanted.uri, roots=self._config.roots())
            uri, weights = path.as_uri(), await call(self._pool, inspect, path)
        base = await self._base(weights, parent=parent, name=wanted.uri)
        version = await self._add(f"{parent}/models/{model_id}", uri, wanted, weights)
        made_from = dict.fromkeys([*sources, *base])
        edges = [LineageEdge(source=source, target=version.name, relation="made_from") for source in made_from]
        await self._store.add_edges(parent, edges)
        return version

    async def get(self, name: str) -> ModelVersion:
        """One version; `-` is the newest. Raises MODEL_VERSION_NOT_FOUND."""
        parts = parse(name, MODEL_VERSION)
        found = await self._store.model(unversioned(name), version_number(parts["version"]))
        if found is None:
            raise missing("MODEL_VERSION", name)
        return found[1]

    async def files(
        self, name: str, *, skip: Sequence[str] = (), weights: bool = True
    ) -> AsyncIterator[ModelVersion | FileEntry | bytes]:
        """A version, and then each of its files with its bytes. Raises the reasons of `get` and `ModelFiles.read`."""
        version = await self.get(name)
        yield version
        async for part in self._files.read(version, skip=frozenset(skip), weights=weights):
            yield part

    async def page(self, parent: str, *, after: list[str], limit: int) -> tuple[list[ModelVersion], list[str]]:
        """A page of model versions, newest first, and the position after it; empty on the last page."""
        parse(parent, PROJECT)
        rows = await self._store.models(parent, after=after, limit=limit + 1)
        return [version for _, version in rows[:limit]], rows[limit - 1][0] if len(rows) > limit else []

    async def _base(self, weights: Weights, *, parent: str, name: str) -> list[str]:
        """The base of a LoRA, which must be a model of its own in the same project; else none.

        Raises BASE_MODEL_NOT_IN_PROJECT, MODEL_VERSION_NOT_FOUND, LORA_OF_LORA.
        """
        if weights.lora is None:
            return []
        check_base_in_project(weights.lora, name=name, parent=parent)
        if (await self.get(weights.lora.base)).lora_base:
            raise lora_of_lora(name, weights.lora.base)
        return [weights.lora.base]

    async def _add(self, model: str, uri: str, wanted: ModelVersion, weights: Weights) -> ModelVersion:
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
        raise Aborted(f"Other callers register {model} all the time: try again.", reason="COMMIT_CONFLICT")
