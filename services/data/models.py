"""The model registry: numbered, immutable versions, each a set of files that were hashed when they were registered.

A deleted version is gone, but its number is not given again: whoever wrote it down must never find another model there.
"""

from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from omnialign.errors import Aborted, FailedPrecondition, InvalidArgument
from omnialign.folders import FileEntry, entries_digest, list_files
from omnialign.modeling.lora import check_base_in_project, lora_of_lora
from omnialign.names import MODEL_VERSION, PROJECT, parse, unversioned
from omnialign.v1.data_service_pb2 import LineageEdge
from omnialign.v1.model_pb2 import ModelVersion
from services.data.config import DataConfig
from services.data.datasets import COMMIT_ATTEMPTS
from services.data.errors import version_not_found
from services.data.model_files import ModelFiles
from services.data.model_store import ModelStore
from services.data.objects.base import run_in_pool
from services.data.store import Store, now_us, timestamp
from services.data.uploads import Upload, Uploads, is_upload, local_path
from services.data.usage import Usage
from services.data.uses import Uses, unless_used
from services.data.version_numbers import version_number
from services.data.weights import Weights, inspect_folder

REGISTRATION_SECONDS = 2 * 3600
"""How long files that somebody is registering are kept, even if no version has them yet."""


class Models:
    """The models of all projects."""

    def __init__(
        self,
        config: DataConfig,
        *,
        store: ModelStore,
        lineage: Store,
        uploads: Uploads,
        files: ModelFiles,
        usage: Usage,
        uses: Uses,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._config, self._store, self._lineage, self._pool = config, store, lineage, pool
        self._uploads, self._files, self._usage, self._uses = uploads, files, usage, uses

    async def register(
        self, parent: str, model_id: str, *, wanted: ModelVersion, sources: Sequence[str]
    ) -> ModelVersion:
        """Registers a folder or an upload, and what it was made from. Unchanged files return the newest version.

        A LoRA is also made from its base. Raises the reasons of `inspect_folder` and `local_path`,
        UPLOAD_NOT_FOUND, MODEL_FILES_LEAVE, and for a LoRA those of its base.
        """
        held: dict[str, int] = {}
        if is_upload(wanted.uri):
            upload = await self._uploads.get(wanted.uri, parent=parent)
            await self._usage.release(upload.name)  # the model counts instead
            await self._claim(upload)
            with self._uploads.reading(upload):
                uri, weights = await run_in_pool(self._pool, self._files.admit, upload)
            held[weights.sha256] = sum(entry.size_bytes for entry in upload.files)
        else:
            path = local_path(wanted.uri, roots=self._config.roots())
            uri, weights = path.as_uri(), await run_in_pool(self._pool, self._inspect, path)
        base = await self._base(weights, parent=parent, name=wanted.uri)
        version = await self._add(f"{parent}/models/{model_id}", uri, wanted, weights, base)
        made_from = dict.fromkeys([*sources, *([base.name] if base else [])])
        edges = [LineageEdge(source=source, target=version.name, relation="made_from") for source in made_from]
        await self._lineage.add_edges(parent, edges)
        await self._usage.hold(version.name, held, parent=parent)
        return version

    async def delete(self, name: str, *, force: bool) -> None:
        """Deletes a version; its number is not given again, and its files stay as long as another version has them.

        A folder where it was registered in place is left alone. Raises MODEL_VERSION_NOT_FOUND, and unless `force`
        MODEL_IN_USE, and HAS_DEPENDENTS for the base of a LoRA.
        """
        parts, model = parse(name, MODEL_VERSION), unversioned(name)
        if (number := version_number(parts["version"])) is None:
            message = f"{model}: name the version to delete by its number, not by `-`."
            raise InvalidArgument(message, reason="RESOURCE_NAME_INVALID", metadata={"name": name})
        version = await self.get(name)
        loras = await self._store.loras_of(version.name)
        if loras and not force:
            message = f"{version.name} is the base of {', '.join(loras[:10])}: delete those first, or force it."
            metadata = {"name": version.name, "dependents": ",".join(loras[:10])}
            raise FailedPrecondition(message, reason="HAS_DEPENDENTS", metadata=metadata)
        before = unless_used(version.name, force=force)
        if not await self._store.delete(version.name, model=model, number=number, before=before):
            raise version_not_found("MODEL_VERSION", name)
        if self._files.is_stored(version):
            await self._remove(version.sha256)

    async def sweep(self) -> int:
        """Removes files that no version has and nobody is registering; returns the number of models they were of."""
        unneeded = await self._store.unneeded_files(claimed_before_us=_oldest_claim_us())
        return sum([await self._remove(sha256) for sha256 in unneeded])

    async def _remove(self, sha256: str) -> bool:
        """Removes files, unless a version has them or somebody may be registering them: then a later sweep tries."""
        if not await self._store.begin_removal(sha256, claimed_before_us=_oldest_claim_us()):
            return False
        await run_in_pool(self._pool, self._files.remove, sha256)
        await self._store.end_removal(sha256)
        return True

    async def _claim(self, upload: Upload) -> None:
        """Keeps the files from being removed from the registry while they come in. Raises MODEL_FILES_LEAVE."""
        if not await self._store.claim_files(entries_digest(upload.files)):
            message = "The same files are being removed with a deleted version: register them again in a minute."
            raise Aborted(message, reason="MODEL_FILES_LEAVE", metadata={"upload": upload.name})

    def _inspect(self, folder: Path) -> Weights:
        """`inspect_folder`, for a folder without links that lead out of the import roots. Raises PATH_FORBIDDEN."""
        for path in list_files(folder):
            local_path(str(path), roots=self._config.roots())
        return inspect_folder(folder)

    async def get(self, name: str) -> ModelVersion:
        """One version with its users; `-` is the newest. Raises MODEL_VERSION_NOT_FOUND."""
        parts = parse(name, MODEL_VERSION)
        found = await self._store.find(unversioned(name), version_number(parts["version"]))
        if found is None:
            raise version_not_found("MODEL_VERSION", name)
        return (await self._with_users([found]))[0]

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
        rows = await self._store.page(parent, after=after, limit=limit + 1)
        versions = await self._with_users([version for _, version in rows[:limit]])
        return versions, rows[limit - 1][0] if len(rows) > limit else []

    async def _with_users(self, versions: list[ModelVersion]) -> list[ModelVersion]:
        users = await self._uses.users([version.name for version in versions])
        for version in versions:
            version.users.extend(users.get(version.name, ()))
        return versions

    async def _base(self, weights: Weights, *, parent: str, name: str) -> ModelVersion | None:
        """The base of a LoRA, which must be a full model in the same project; None for other models.

        Raises BASE_MODEL_NOT_IN_PROJECT, MODEL_VERSION_NOT_FOUND, LORA_OF_LORA.
        """
        if weights.lora is None:
            return None
        check_base_in_project(weights.lora, name=name, parent=parent)
        base = await self.get(weights.lora.base)
        if base.lora_base:
            raise lora_of_lora(name, base.name)
        return base

    async def _add(
        self, model: str, uri: str, wanted: ModelVersion, weights: Weights, base: ModelVersion | None
    ) -> ModelVersion:
        # Optimistic: take the next number, and look again if another caller took it first.
        for _ in range(COMMIT_ATTEMPTS):
            newest = await self._store.find(model, None)
            if newest is not None and newest.sha256 == weights.sha256:
                return newest
            number, created_us = await self._store.last_number(model) + 1, now_us()
            version = ModelVersion(name=f"{model}/versions/{number}", uri=uri, display_name=wanted.display_name)
            version.labels.update(wanted.labels)
            version.sha256, version.size_bytes = weights.sha256, weights.size_bytes
            version.parameter_count = weights.parameter_count
            version.lora_base = weights.lora.base if weights.lora else ""
            version.reward_model = weights.is_reward_model
            version.writes.extend(base.writes if base else weights.writes)
            version.create_time.CopyFrom(timestamp(created_us))
            if await self._store.add(version, model=model, number=number, created_us=created_us):
                return version
        raise Aborted(f"Other callers keep registering {model}: try again.", reason="COMMIT_CONFLICT")


def _oldest_claim_us() -> int:
    return now_us() - REGISTRATION_SECONDS * 1_000_000
