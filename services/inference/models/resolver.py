"""From a model's name to files that are safe to load.

A name is `projects/{p}/models/{m}/versions/{n}`, which is looked up in the registry, or a `file://` folder. A
registered model whose folder is not on this machine is downloaded. A folder is refused if it contains pickles, which
run code when read, or weights in no format that we read.

A LoRA leads to its base, which is found in the same way. The base of a registered LoRA must be in the same project, so
that a LoRA gives access to nothing that its own name would not.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol
from urllib.parse import urlparse
from urllib.request import url2pathname

from omnialign import names
from omnialign.errors import InvalidArgument, NotFound, PermissionDenied
from omnialign.folders import list_files
from omnialign.modeling.lora import check_base_in_project, is_lora, lora_of_lora, read_lora
from omnialign.v1 import model_pb2
from services.inference.config import EngineConfig
from services.inference.errors import not_found
from services.inference.models.download_cache import DownloadCache
from services.inference.models.safetensors import check_folder


class Registry(Protocol):
    """The part of the SDK that knows models."""

    async def get_model_version(self, name: str) -> model_pb2.ModelVersion:
        """The version of this resource name."""
        ...

    async def download_model(self, name: str, to_folder: Path) -> model_pb2.ModelVersion:
        """Downloads a version into a folder, which appears once it is complete."""
        ...


@dataclass(frozen=True)
class ModelFiles:
    """The files of a model. For a LoRA, `base` and `folder` are its base's; otherwise `base` is the model itself."""

    base: str
    folder: Path
    lora: Path | None = None
    """Folder of the LoRA; None for a model that is none."""
    rank: int = 0
    """Largest rank of the LoRA."""


class ModelResolver:
    """Finds the files of models, in `roots` only unless there are none, and downloads those of registered models."""

    def __init__(
        self, registry: Registry | None, *, roots: Sequence[Path] = (), cache: DownloadCache | None = None
    ) -> None:
        self._registry, self._cache = registry, cache
        self._roots = [root.resolve() for root in roots]
        self._known: dict[str, Path] = {}  # never out of date: versions are immutable

    @classmethod
    def of(cls, config: EngineConfig, registry: Registry | None) -> "ModelResolver":
        """The resolver of an engine."""
        cache = DownloadCache(config.model_cache, limit_bytes=config.model_cache_bytes)
        roots = (*config.model_roots, config.policy_folder) if config.model_roots else ()
        return cls(registry, roots=roots, cache=cache)

    async def find(self, model: str) -> ModelFiles:
        """The files of a model, checked to exist and to be free of pickles.

        Raises MODEL_NAME_INVALID, MODEL_NOT_FOUND, MODEL_NOT_ALLOWED, MODEL_URI_UNSUPPORTED, MODEL_HAS_PICKLE, what
        downloading raises, and for a LoRA what `parse_lora` and `check_home` raise and LORA_OF_LORA.
        """
        folder = await self._checked(model)
        if not is_lora(folder):
            return ModelFiles(model, folder)
        settings = read_lora(folder, name=model)
        if model.startswith("projects/"):
            check_base_in_project(settings, name=model, parent=names.project_name_of(model))
        base = await self._checked(settings.base)
        if is_lora(base):
            raise lora_of_lora(model, settings.base)
        return ModelFiles(settings.base, base, lora=folder, rank=settings.rank)

    async def folder(self, model: str) -> Path:
        """The folder with a model's settings and weights, or with those of a LoRA's base. Raises what `find` raises."""
        return (await self.find(model)).folder

    async def _checked(self, model: str) -> Path:
        """The folder of exactly this model, marked as used."""
        folder = self._known.get(model)
        if folder is None or not folder.is_dir():  # the cache may have removed it for others
            folder = await self._locate(model)
        check_folder(folder, model=model)
        if model.startswith("projects/"):
            self._known[model] = folder
        if self._cache is not None:
            self._cache.touch(folder)
        return folder

    async def _locate(self, model: str) -> Path:
        if model.startswith("file://"):
            folder = path_of(model, model=model)
            self._check_allowed(folder, model)
            return folder
        # `-` would be resolved once and then name that version for ever, in answers and lineage too.
        if not model.startswith("projects/") or names.id_of(model) == names.NEWEST:
            raise InvalidArgument(
                f"The model {model!r} must be projects/{{project}}/models/{{model}}/versions/{{number}} or a file:// "
                "folder.",
                reason="MODEL_NAME_INVALID",
                metadata={"model": model},
            )
        return await self._registered(model)

    async def _registered(self, model: str) -> Path:
        """The folder of a registered model: where it was registered if that is on this machine, or in the cache."""
        if self._registry is None:
            raise not_found(model, "this engine has no model registry")
        try:
            version = await self._registry.get_model_version(model)
        except NotFound as error:
            raise not_found(model, "the registry does not know it") from error
        if version.uri.startswith("file://") and (folder := path_of(version.uri, model=model)).is_dir():
            return folder
        if self._cache is None:
            raise not_found(model, "its folder is not on this machine")
        return await self._cache.folder(version, source=self._registry)

    def _check_allowed(self, folder: Path, model: str) -> None:
        # Resolved, so that neither `..` nor a link, that of a file in the folder included, leads out of the roots.
        paths = [folder, *list_files(folder)] if self._roots else []
        if not all(any(path.resolve().is_relative_to(root) for root in self._roots) for path in paths):
            raise PermissionDenied(
                f"The model {model} is in none of the folders that models may be read from.",
                reason="MODEL_NOT_ALLOWED",
                metadata={"model": model},
            )


def path_of(uri: str, *, model: str) -> Path:
    """The local path of a `file://` URI. Raises InvalidArgument MODEL_URI_UNSUPPORTED."""
    parts = urlparse(uri)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise InvalidArgument(
            f"The weights of {model} are at {uri}; this engine reads file:// folders of this machine only.",
            reason="MODEL_URI_UNSUPPORTED",
            metadata={"model": model, "uri": uri},
        )
    return Path(url2pathname(parts.path))
