"""The weights of a model folder, from their headers alone: whether they are safe to load, and how large they are.

A safetensors file begins with the length of a JSON header in 8 bytes, and that header, which has all shapes.
"""

import json
import math
import struct
from collections.abc import Iterator
from pathlib import Path

from omnialign.errors import FailedPrecondition
from omnialign.modeling.lora import is_lora
from services.inference.errors import load_failed, not_found

PICKLES = frozenset({".bin", ".pt", ".pth", ".pkl", ".pickle", ".ckpt"})
MAX_HEADER_BYTES = 100 << 20


def check_folder(folder: Path, *, model: str) -> None:
    """Raises MODEL_NOT_FOUND, MODEL_HAS_PICKLE or MODEL_LOAD_FAILED for a folder that must not or cannot be loaded."""
    if not (folder / "config.json").is_file() and not is_lora(folder):
        raise not_found(model, "its folder or the config.json in it does not exist")
    if pickles := sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLES):
        raise FailedPrecondition(
            f"The model {model} contains {', '.join(pickles)}, and pickles run code when read; "
            "convert it to safetensors.",
            reason="MODEL_HAS_PICKLE",
            metadata={"model": model, "files": ", ".join(pickles)},
        )
    if not any(folder.glob("*.safetensors")):
        raise load_failed(model, "its folder has no *.safetensors file.")


def parameter_count(folder: Path, *, model: str) -> int:
    """Number of parameters in the safetensors files of a folder. Raises MODEL_LOAD_FAILED."""
    return sum(math.prod(shape) for shape in _shapes(folder, model))


def lora_parameter_count(folder: Path, *, model: str, rank: int) -> int:
    """Number of parameters of a LoRA of this rank on every matrix of a folder's model. Raises MODEL_LOAD_FAILED."""
    # For a matrix (out, in): A is (rank, in) and B is (out, rank).
    return sum(rank * sum(shape) for shape in _shapes(folder, model) if len(shape) == 2)


def _shapes(folder: Path, model: str) -> list[list[int]]:
    """The shapes of all tensors."""
    try:
        shapes = [shape for path in sorted(folder.glob("*.safetensors")) for shape in _shapes_in(path)]
        if not all(type(size) is int for shape in shapes for size in shape):
            raise ValueError("a shape has sizes that are not whole numbers")
        return shapes
    except (OSError, ValueError, KeyError, TypeError, AttributeError, struct.error) as error:
        raise load_failed(model, f"a safetensors header cannot be read ({error}).") from error


def _shapes_in(path: Path) -> Iterator[list[int]]:
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        if length > MAX_HEADER_BYTES:
            raise ValueError(f"{path.name} claims a header of {length} bytes")
        header = json.loads(file.read(length))
    return (tensor["shape"] for name, tensor in header.items() if name != "__metadata__")
