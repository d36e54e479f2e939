"""From a model's name to a folder that is safe to load.

A name is `projects/{p}/models/{m}/versions/{n}`, looked up in the registry, or a `file://` folder. A registered model
whose folder is not on this machine is fetched. A folder is refused when it holds pickles, which run code when read, or
weights in no form that we read.
"""

import json
import math
import struct
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol
from urllib.parse import urlparse
from urllib.request import url2pathname

from omnialign.errors import FailedPrecondition, InvalidArgument, NotFound, PermissionDenied
from omnialign.v1 import model_pb2
from services.inference.model_cache import ModelCache

PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
MAX_HEADER_BYTES = 100 << 20


class Registry(Protocol):
    """The part of the SDK that knows models."""

    async def get_model_version(self, name: str) -> model_pb2.ModelVersion:
        """The version of this resource name."""
        ...

    async def download_model(self, name: str, to_folder: Path) -> model_pb2.ModelVersion:
        """Fetches a version into a folder, which appears when it is whole."""
        ...


class ModelResolver:
    """Finds the folders of models."""

    def __init__(
        self, registry: Registry | None, *, roots: Sequence[Path] = (), cache: ModelCache | None = None
    ) -> None:
        self._registry, self._cache = registry, cache
        self._roots = [root.resolve() for root in roots]
        self._known: dict[str, Path] = {}  # versions are immutable

    async def folder(self, model: str) -> Path:
        """The folder of a model, checked to be there and free of pickles.

        Raises MODEL_NAME_INVALID, MODEL_NOT_FOUND, MODEL_NOT_ALLOWED, MODEL_URI_UNSUPPORTED, MODEL_HAS_PICKLE, and what
        fetching raises.
        """
        folder = self._known.get(model)
        if folder is None or not folder.is_dir():  # removed from the cache for others
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
        if not model.startswith("projects/"):
            raise InvalidArgument(
                f"The model {model!r} is neither projects/{{project}}/models/{{model}}/versions/{{version}} nor a "
                "file:// folder.",
                reason="MODEL_NAME_INVALID",
                metadata={"model": model},
            )
        return await self._registered(model)

    async def _registered(self, model: str) -> Path:
        """The folder of a registered model where it is on this machine, or else in the cache."""
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
        if self._roots and not any(folder.resolve().is_relative_to(root) for root in self._roots):
            raise PermissionDenied(
                f"The model {model} lies in none of the folders that models may be read from.",
                reason="MODEL_NOT_ALLOWED",
                metadata={"model": model},
            )


def not_found(model: str, why: str) -> NotFound:
    """The error for a model that is not there."""
    return NotFound(f"There is no model {model}: {why}.", reason="MODEL_NOT_FOUND", metadata={"model": model})


def load_failed(model: str, why: str) -> FailedPrecondition:
    """The error for a model that is there but cannot be loaded."""
    return FailedPrecondition(
        f"The model {model} cannot be loaded: {why}", reason="MODEL_LOAD_FAILED", metadata={"model": model}
    )


def path_of(uri: str, *, model: str) -> Path:
    """The local path of a `file://` URI."""
    parts = urlparse(uri)
    if parts.scheme != "file" or parts.netloc not in ("", "localhost"):
        raise InvalidArgument(
            f"The weights of {model} are at {uri}; this engine reads file:// folders of this machine only.",
            reason="MODEL_URI_UNSUPPORTED",
            metadata={"model": model, "uri": uri},
        )
    return Path(url2pathname(parts.path))


def check_folder(folder: Path, *, model: str) -> None:
    """Raises MODEL_NOT_FOUND, MODEL_HAS_PICKLE or MODEL_LOAD_FAILED for a folder that must not or cannot be loaded."""
    if not (folder / "config.json").is_file():
        raise not_found(model, "its folder or the config.json in it does not exist")
    if pickles := sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLES):
        raise FailedPrecondition(
            f"The model {model} holds {', '.join(pickles)}, and pickles run code when read; convert it to safetensors.",
            reason="MODEL_HAS_PICKLE",
            metadata={"model": model, "files": ", ".join(pickles)},
        )
    if not any(folder.glob("*.safetensors")):
        raise load_failed(model, "its folder has no *.safetensors file.")


def parameter_count(folder: Path, *, model: str) -> int:
    """Numbers in the safetensors files of a folder, from their headers alone. Raises MODEL_LOAD_FAILED."""
    try:
        return sum(_count(path) for path in sorted(folder.glob("*.safetensors")))
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise load_failed(model, f"a safetensors header does not read ({error}).") from error


def _count(path: Path) -> int:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"{path.name} claims a header of {length} bytes")
        header = json.loads(file.read(length))
    return sum(math.prod(tensor["shape"]) for name, tensor in header.items() if name != "__metadata__")
