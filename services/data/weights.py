"""Looking at a model folder: is it complete and safe to load, how large is it, and which bytes are in it.

Only headers of weight files are parsed, by hand: counting parameters must not load gigabytes.
"""

import hashlib
import json
import math
import struct
from dataclasses import dataclass
from pathlib import Path

from omnialign.errors import InvalidArgument

PICKLES = frozenset({".bin", ".pt", ".pkl", ".pth", ".ckpt", ".pickle"})
MAX_HEADER_BYTES = 100 * 1024 * 1024


@dataclass(frozen=True)
class Weights:
    """What a model folder holds."""

    sha256: str
    size_bytes: int
    parameter_count: int


def inspect(folder: Path) -> Weights:
    """Reads a model folder (blocking: it hashes every file).

    Raises MODEL_FOLDER_MISSING, MODEL_HAS_PICKLE, MODEL_CONFIG_MISSING, MODEL_CONFIG_INVALID, MODEL_WEIGHTS_MISSING,
    MODEL_WEIGHTS_INVALID.
    """
    if not folder.is_dir():
        raise _refusal("MODEL_FOLDER_MISSING", f"There is no folder {folder}.", folder)
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    _check_pickles(files, folder)
    _check_config(folder)
    weights = [path for path in files if path.suffix == ".safetensors"]
    if not weights:
        raise _refusal("MODEL_WEIGHTS_MISSING", f"{folder} has no weights in safetensors.", folder)
    return Weights(
        sha256=_digest(files, folder),
        size_bytes=sum(path.stat().st_size for path in weights),
        parameter_count=sum(count_parameters(path) for path in weights),
    )


def count_parameters(path: Path) -> int:
    """Number of parameters in a safetensors file, from its header. Raises MODEL_WEIGHTS_INVALID."""
    size_bytes = path.stat().st_size
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > min(MAX_HEADER_BYTES, size_bytes - 8):
                raise ValueError("the header is longer than the file")
            header = json.loads(file.read(length))
        tensors = [entry for name, entry in header.items() if name != "__metadata__"]
        if 8 + length + max((entry["data_offsets"][1] for entry in tensors), default=0) != size_bytes:
            raise ValueError("the tensors do not fill the file")
        return sum(math.prod(entry["shape"]) for entry in tensors)
    except (struct.error, ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        message = f"{path.name} is not a whole safetensors file: {error}."
        raise _refusal("MODEL_WEIGHTS_INVALID", message, path) from error


def _check_pickles(files: list[Path], folder: Path) -> None:
    pickles = [path for path in files if path.suffix.lower() in PICKLES]
    if pickles:
        names = ", ".join(str(path.relative_to(folder)) for path in pickles[:5])
        message = f"{names}: a pickle can run code when it is loaded. Convert the weights to safetensors."
        raise _refusal("MODEL_HAS_PICKLE", message, folder)


def _check_config(folder: Path) -> None:
    try:
        config = json.loads((folder / "config.json").read_bytes())
    except FileNotFoundError as error:
        raise _refusal("MODEL_CONFIG_MISSING", f"{folder} has no config.json.", folder) from error
    except (ValueError, RecursionError) as error:
        raise _refusal("MODEL_CONFIG_INVALID", f"config.json of {folder} is not JSON: {error}.", folder) from error
    if not isinstance(config, dict):
        raise _refusal("MODEL_CONFIG_INVALID", f"config.json of {folder} is not an object.", folder)


def _digest(files: list[Path], folder: Path) -> str:
    """One digest over the names and digests of all files, in order of name."""
    whole = hashlib.sha256()
    for path in files:
        with path.open("rb") as file:
            whole.update(f"{path.relative_to(folder).as_posix()}\0".encode())
            whole.update(hashlib.file_digest(file, "sha256").digest())
    return whole.hexdigest()


def _refusal(reason: str, message: str, path: Path) -> InvalidArgument:
    return InvalidArgument(message, reason=reason, metadata={"path": str(path)})
