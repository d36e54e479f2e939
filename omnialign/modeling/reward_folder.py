"""What makes a model folder that of a reward model: a scalar head beside the weights of a whole model.

    reward_head.safetensors   `score.weight` (1, hidden) in float32: the name in sequence classifiers of transformers
    reward_report.json        how the model did on held-out pairs, if any were held out

Everything else is as in the folder of the language model that it was trained from, so adapters, registry and checks
treat both alike. No torch here: services ask before they take a device.
"""

from pathlib import Path

from omnialign.errors import InvalidArgument
from omnialign.modeling.model_files import FolderFiles, ModelSource, tensors

HEAD = "reward_head.safetensors"
WEIGHT = "score.weight"
REPORT = "reward_report.json"


def is_reward_model(folder: Path) -> bool:
    """Whether a folder holds a reward model."""
    return (folder / HEAD).is_file()


def check_head(files: ModelSource) -> bool:
    """Whether the files are those of a reward model, whose head is checked by its header.

    Raises InvalidArgument MODEL_WEIGHTS_INVALID, REWARD_HEAD_INVALID.
    """
    if HEAD not in files.sizes():
        return False
    found = {name: (info.dtype, info.shape) for name, info in tensors(files, [HEAD])}
    dtype, shape = found.get(WEIGHT, ("", ()))
    if set(found) != {WEIGHT} or dtype != "F32" or len(shape) != 2 or shape[0] != 1:
        raise head_invalid(files.name, f"holds {_listed(found)}")
    return True


def head_size(folder: Path) -> int:
    """Width of the hidden states that the head of a folder reads. Raises as `check_head`."""
    files = FolderFiles(folder, name=folder.name)
    check_head(files)
    ((_, info),) = tensors(files, [HEAD])
    return info.shape[1]


def head_invalid(model: str, why: str) -> InvalidArgument:
    """The error for a head that does not belong to its model."""
    return InvalidArgument(
        f"{HEAD} of {model} {why}, and a reward model has one tensor there, {WEIGHT} of shape (1, hidden size) in "
        "float32; take it from the job that trained the model.",
        reason="REWARD_HEAD_INVALID",
        metadata={"model": model},
    )


def check_use(model: str, *, gives_rewards: bool, wants_rewards: bool) -> None:
    """Raises InvalidArgument if a reward model is to write, or another model to give rewards.

    `gives_rewards` says what the model is, `wants_rewards` what it is needed for.
    """
    if gives_rewards and not wants_rewards:
        raise writes_nothing(model)
    if wants_rewards and not gives_rewards:
        raise gives_no_rewards(model)


def writes_nothing(model: str, *, field: str = "model") -> InvalidArgument:
    """The error for a reward model where a language model is needed; `field` is where it was named."""
    message = (
        f"'{model}' is a reward model, which writes nothing; name the model that it was trained from, or ask "
        "ComputeRewards for rewards"
    )
    return InvalidArgument(
        message, reason="MODEL_IS_A_REWARD_MODEL", metadata={"model": model}, violations=[(field, message)]
    )


def gives_no_rewards(model: str) -> InvalidArgument:
    """The error for a language model where a reward model is needed."""
    message = (
        f"'{model}' is no reward model; name one that a training job of the method reward has made, or ask "
        "ScoreResponse, which takes any model"
    )
    return InvalidArgument(
        message, reason="MODEL_NOT_A_REWARD_MODEL", metadata={"model": model}, violations=[("model", message)]
    )


def _listed(found: dict[str, tuple[str, tuple[int, ...]]]) -> str:
    shown = [f"{name[:80]} {shape} in {dtype}" for name, (dtype, shape) in sorted(found.items())[:3]]
    return ", ".join(shown) or "no tensor"
