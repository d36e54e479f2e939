"""Inspecting the files of a model: whether they are complete and safe to load, their size and their digest.

Only the headers of weight files are parsed, by hand, so that counting parameters does not load gigabytes.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from omnialign.errors import InvalidArgument
from omnialign.folders import FileEntry, entries_digest, folder_digest
from omnialign.modeling.lora import CONFIG as ADAPTER_CONFIG
from omnialign.modeling.lora import MAX_CONFIG_BYTES, LoraSettings, parse_lora
from omnialign.modeling.model_files import (
    CONFIG,
    WEIGHTS,
    FolderFiles,
    ModelSource,
    check_files,
    tensors,
)
from omnialign.modeling.reward_folder import check_head
from omnialign.modeling.written import Modality, written_by_files
from services.data.objects import ObjectStore


@dataclass(frozen=True)
class Weights:
    """What the files of a model hold; `lora` is None unless it is a LoRA."""

    sha256: str
    size_bytes: int
    parameter_count: int
    lora: LoraSettings | None = None
    is_reward_model: bool = False
    writes: tuple[Modality, ...] = ()
    """The modalities that a whole model writes."""


class StoredFiles:
    """Files in the object store, which were hashed when they were uploaded."""

    def __init__(self, name: str, files: Mapping[FileEntry, str], objects: ObjectStore) -> None:
        self.name, self._files, self._objects = name, files, objects
        self._keys = {entry.path: key for entry, key in files.items()}

    def sizes(self) -> Mapping[str, int]:
        """See ModelSource."""
        return {entry.path: entry.size_bytes for entry in sorted(self._files, key=lambda entry: entry.path.split("/"))}

    def read(self, path: str, *, start: int, length: int) -> bytes:
        """See ModelSource."""
        return self._objects.read(self._keys[path], start=start, length=length)


def inspect_folder(folder: Path) -> Weights:
    """Checks and summarises the model in a folder (blocking). Raises MODEL_FOLDER_MISSING, and as `inspect_upload`."""
    if not folder.is_dir():
        raise _refusal("MODEL_FOLDER_MISSING", f"There is no folder {folder}.", str(folder))
    return _inspect(FolderFiles(folder), lambda: folder_digest(folder))


def inspect_upload(name: str, files: Mapping[FileEntry, str], objects: ObjectStore) -> Weights:
    """Checks and summarises an uploaded model (blocking).

    Raises MODEL_CONFIG_MISSING, MODEL_WEIGHTS_MISSING, MODEL_WEIGHTS_INVALID, what `check_files` raises, for a LoRA
    what `parse_lora` raises, and for a reward model what `check_head` raises.
    """
    return _inspect(StoredFiles(name, files, objects), lambda: entries_digest(files))


def _inspect(files: ModelSource, digest: Callable[[], str]) -> Weights:
    sizes = files.sizes()
    check_files(files)
    lora = _lora(files, sizes)
    if lora is None and CONFIG not in sizes:
        message = f"{files.name} has neither a {CONFIG} nor, as a LoRA would, an {ADAPTER_CONFIG}."
        raise _refusal("MODEL_CONFIG_MISSING", message, files.name)
    weights = [path for path in sizes if path.endswith(WEIGHTS)]
    if not weights:
        raise _refusal("MODEL_WEIGHTS_MISSING", f"{files.name} has no weights in safetensors.", files.name)
    return Weights(
        parameter_count=sum(tensor.num_elements for _, tensor in tensors(files, weights)),
        size_bytes=sum(sizes[path] for path in weights),
        sha256=digest(),
        lora=lora,
        is_reward_model=check_head(files),
        writes=written_by_files(files),
    )


def _lora(files: ModelSource, sizes: Mapping[str, int]) -> LoraSettings | None:
    if CONFIG in sizes or ADAPTER_CONFIG not in sizes:
        return None
    return parse_lora(files.read(ADAPTER_CONFIG, start=0, length=MAX_CONFIG_BYTES + 1), name=files.name)


def _refusal(reason: str, message: str, path: str) -> InvalidArgument:
    return InvalidArgument(message, reason=reason, metadata={"path": path})
