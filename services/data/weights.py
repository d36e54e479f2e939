"""Inspecting the files of a model: whether they are complete and safe to load, their size and their digest.

Only the headers of weight files are parsed, by hand, so that counting parameters does not load gigabytes.
"""

import json
import math
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from omnialign.errors import InvalidArgument
from omnialign.folders import FileEntry, entries_digest, folder_digest, list_files
from omnialign.modeling.lora import CONFIG as LORA_CONFIG
from omnialign.modeling.lora import LoraSettings, parse_lora
from services.data.objects import ObjectStore

PICKLES = frozenset({".bin", ".pt", ".pkl", ".pth", ".ckpt", ".pickle"})
MAX_HEADER_BYTES = 100 * 1024 * 1024
MAX_CONFIG_BYTES = 16 * 1024 * 1024


@dataclass(frozen=True)
class Weights:
    """What the files of a model hold; `lora` is None unless it is a LoRA."""

    sha256: str
    size_bytes: int
    parameter_count: int
    lora: LoraSettings | None = None


class ModelSource(Protocol):
    """The files of a model, wherever they are. All methods block."""

    name: str
    """The caller's name for the location, for error messages."""

    def sizes(self) -> Mapping[str, int]:
        """Bytes of each file by path, in order of path."""
        ...

    def read(self, path: str, *, start: int, length: int) -> bytes:
        """Bytes of a file."""
        ...

    def digest(self) -> str:
        """The digest of all files, as in `omnialign.folders`."""
        ...


class FolderFiles:
    """The files of a folder."""

    def __init__(self, folder: Path) -> None:
        self.name, self._folder = str(folder), folder

    def sizes(self) -> Mapping[str, int]:
        """See ModelSource."""
        paths = list_files(self._folder)
        return {path.relative_to(self._folder).as_posix(): path.stat().st_size for path in paths}

    def read(self, path: str, *, start: int, length: int) -> bytes:
        """See ModelSource."""
        with (self._folder / path).open("rb") as file:
            file.seek(start)
            return file.read(length)

    def digest(self) -> str:
        """Hashes every file."""
        return folder_digest(self._folder)


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

    def digest(self) -> str:
        """Combines the known digests of the files."""
        return entries_digest(self._files)


def inspect_folder(folder: Path) -> Weights:
    """`inspect_model` for a folder. Raises MODEL_FOLDER_MISSING too."""
    if not folder.is_dir():
        raise _refusal("MODEL_FOLDER_MISSING", f"There is no folder {folder}.", str(folder))
    return inspect_model(FolderFiles(folder))


def inspect_model(files: ModelSource) -> Weights:
    """Checks and summarises the files of a model (blocking).

    Raises MODEL_HAS_PICKLE, MODEL_CONFIG_MISSING, MODEL_CONFIG_INVALID, MODEL_WEIGHTS_MISSING, MODEL_WEIGHTS_INVALID,
    and for a LoRA what `parse_lora` raises.
    """
    sizes = files.sizes()
    _check_pickles(sizes, files.name)
    lora = _lora(files, sizes)
    if lora is None:
        _check_config(files, sizes)
    weights = {path: size for path, size in sizes.items() if path.endswith(".safetensors")}
    if not weights:
        raise _refusal("MODEL_WEIGHTS_MISSING", f"{files.name} has no weights in safetensors.", files.name)
    return Weights(
        parameter_count=sum(_count_parameters(files, path, size) for path, size in weights.items()),
        size_bytes=sum(weights.values()),
        sha256=files.digest(),
        lora=lora,
    )


def _count_parameters(files: ModelSource, path: str, size_bytes: int) -> int:
    """Number of parameters in a safetensors file, from its header."""
    try:
        return _count(lambda start, length: files.read(path, start=start, length=length), size_bytes)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        message = f"{path} is not a complete safetensors file: {error}."
        raise _refusal("MODEL_WEIGHTS_INVALID", message, path) from error


def _count(read: Callable[[int, int], bytes], size_bytes: int) -> int:
    # The format: 8 bytes with the header's length, the header as JSON, then the tensors without gaps.
    if size_bytes < 8:
        raise ValueError("it is too short for a header")
    (length,) = struct.unpack("<Q", read(0, 8))
    if length > min(MAX_HEADER_BYTES, size_bytes - 8):
        raise ValueError("the header is longer than the file")
    header = json.loads(read(8, length))
    tensors = [entry for name, entry in header.items() if name != "__metadata__"]
    if 8 + length + max((entry["data_offsets"][1] for entry in tensors), default=0) != size_bytes:
        raise ValueError("the tensors do not fill the file")
    return sum(math.prod(entry["shape"]) for entry in tensors)


def _check_pickles(sizes: Mapping[str, int], name: str) -> None:
    pickles = [path for path in sizes if Path(path).suffix.lower() in PICKLES]
    if pickles:
        message = f"{', '.join(pickles[:5])}: pickles can run code when loaded. Convert the weights to safetensors."
        raise _refusal("MODEL_HAS_PICKLE", message, name)


def _lora(files: ModelSource, sizes: Mapping[str, int]) -> LoraSettings | None:
    if "config.json" in sizes or LORA_CONFIG not in sizes:
        return None
    return parse_lora(files.read(LORA_CONFIG, start=0, length=MAX_CONFIG_BYTES + 1), name=files.name)


def _check_config(files: ModelSource, sizes: Mapping[str, int]) -> None:
    name = files.name
    if "config.json" not in sizes:
        raise _refusal(
            "MODEL_CONFIG_MISSING", f"{name} has neither a config.json nor, as a LoRA would, a {LORA_CONFIG}.", name
        )
    if sizes["config.json"] > MAX_CONFIG_BYTES:
        raise _refusal("MODEL_CONFIG_INVALID", f"config.json of {name} is too large for a configuration.", name)
    try:
        config = json.loads(files.read("config.json", start=0, length=MAX_CONFIG_BYTES))
    except (ValueError, RecursionError) as error:
        raise _refusal("MODEL_CONFIG_INVALID", f"config.json of {name} is not JSON: {error}.", name) from error
    if not isinstance(config, dict):
        raise _refusal("MODEL_CONFIG_INVALID", f"config.json of {name} is not an object.", name)


def _refusal(reason: str, message: str, path: str) -> InvalidArgument:
    return InvalidArgument(message, reason=reason, metadata={"path": path})
