"""Whether a LoRA has its place in a base model, found out from shapes alone.

PEFT skips updates of modules that the base does not have, and fails in the middle of a batch on those of another size.
"""

import re
from collections.abc import Mapping
from pathlib import Path

import torch

from omnialign.modeling.lora import MODULE, WEIGHTS, unsupported
from omnialign.modeling.model_files import FolderFiles, tensors, weight_paths
from omnialign.modeling.model_folder import concrete_class, read_config
from omnialign.modeling.weights_check import dry_load

Shape = tuple[int, ...]

_SIDE = re.compile(r"lora_(?:embedding_)?([AB])(?:\.weight)?$")


def parameter_shapes(folder: Path) -> dict[str, Shape]:
    """The shape of each parameter of a model, by the name that it has in memory. Raises whatever the library raises."""
    files, config = FolderFiles(folder), read_config(folder)
    model, _ = dry_load(concrete_class(folder, config), config, dict(tensors(files, weight_paths(files))))
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def check_lora_fits(lora: Path, shapes: Mapping[str, Shape], *, name: str) -> None:
    """Raises InvalidArgument LORA_UNSUPPORTED, naming the first weight of a LoRA that has no place in its base.

    `shapes` are those of the base's parameters. Also raises MODEL_WEIGHTS_INVALID.
    """
    sides: dict[str, dict[str, Shape]] = {}
    for weight, info in sorted(tensors(FolderFiles(lora, name=name), [WEIGHTS])):
        match, side = MODULE.fullmatch(weight), _SIDE.search(weight)
        if match is None or side is None:
            raise unsupported(name, f"its weight {weight} is not that of a low-rank update")
        if f"{match[1]}.weight" not in shapes:
            raise unsupported(name, f"its weight {weight} changes a module that the base does not have")
        sides.setdefault(match[1], {})[side[1]] = tuple(info.shape)
    if not sides:
        raise unsupported(name, "it has no weights")
    for module, found in sides.items():
        if not _fits(found, shapes[f"{module}.weight"]):
            had = " and ".join(f"lora_{side} {list(shape)}" for side, shape in sorted(found.items()))
            wanted = list(shapes[f"{module}.weight"])
            raise unsupported(name, f"its weights of {module} ({had}) do not fit the base's {wanted}")


def _fits(sides: Mapping[str, Shape], weight: Shape) -> bool:
    """Whether A, (rank, in), and B, (out, rank), make an update of a weight of (out, in) or of (in, out)."""
    a, b = sides.get("A"), sides.get("B")
    if a is None or b is None or len(a) < 2 or len(b) < 2 or a[0] != b[1]:
        return False
    if len(weight) > 2:  # a convolution: `torch` itself says how its sides are shaped
        return b[0] == weight[0] and torch.Size(a[1:]).numel() <= torch.Size(weight[1:]).numel()
    return (b[0], a[1]) in (weight, weight[::-1])
