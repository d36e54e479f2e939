"""The weights of a model folder, from their headers alone: whether they are safe to load, and how large they are."""

from pathlib import Path

from omnialign.errors import FailedPrecondition, InvalidArgument
from omnialign.modeling.lora import is_lora
from omnialign.modeling.model_files import CONFIG, PICKLES, WEIGHTS, FolderFiles, tensors
from omnialign.modeling.safetensors_header import TensorInfo
from services.inference.errors import load_failed, not_found


def check_folder(folder: Path, *, model: str) -> None:
    """Raises MODEL_NOT_FOUND, MODEL_HAS_PICKLE or MODEL_LOAD_FAILED for a folder that must not or cannot be loaded.

    It is cheap, and asked at every request; `check_files` looks closer when the model is loaded.
    """
    if not (folder / CONFIG).is_file() and not is_lora(folder):
        raise not_found(model, f"its folder or the {CONFIG} in it does not exist")
    if pickles := sorted(path.name for path in folder.iterdir() if path.suffix.lower() in PICKLES):
        raise FailedPrecondition(
            f"The model {model} contains {', '.join(pickles)}, and pickles run code when read; "
            "convert it to safetensors.",
            reason="MODEL_HAS_PICKLE",
            metadata={"model": model, "files": ", ".join(pickles)},
        )
    if not any(folder.glob(f"*{WEIGHTS}")):
        raise load_failed(model, f"its folder has no *{WEIGHTS} file.")


def parameter_count(folder: Path, *, model: str) -> int:
    """Number of parameters in the safetensors files of a folder. Raises MODEL_LOAD_FAILED."""
    return sum(tensor.num_elements for tensor in _tensors(folder, model))


def lora_parameter_count(folder: Path, *, model: str, rank: int) -> int:
    """Number of parameters of a LoRA of this rank on every matrix of a folder's model. Raises MODEL_LOAD_FAILED."""
    # For a matrix (out, in): A is (rank, in) and B is (out, rank).
    return sum(rank * sum(tensor.shape) for tensor in _tensors(folder, model) if len(tensor.shape) == 2)


def _tensors(folder: Path, model: str) -> list[TensorInfo]:
    """All tensors of a folder."""
    paths = sorted(path.name for path in folder.glob(f"*{WEIGHTS}"))
    try:
        return [tensor for _, tensor in tensors(FolderFiles(folder, name=model), paths)]
    except (OSError, InvalidArgument) as error:
        raise load_failed(model, f"a safetensors header cannot be read ({error}).") from error
