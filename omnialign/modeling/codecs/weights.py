"""The weights of learned codecs: the tensors in a folder of safetensors files, or those of one part of a model.

Headers are read without torch, so a folder can be checked and its codec identified on machines that encode nothing.
"""

import hashlib
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omnialign.errors import InvalidArgument
from omnialign.modeling.safetensors_header import HeaderInvalid, TensorInfo, read_file_header

NAMES_SHOWN = 5


@dataclass(frozen=True)
class Weights:
    """The tensors of a folder that have `part` (such as `vqmodel`) as a component of their name; all of them for "".

    Raises InvalidArgument CODEC_WEIGHTS_MISSING, or CODEC_WEIGHTS_INVALID for a file with an unreadable header.
    """

    folder: Path
    part: str = ""

    def __post_init__(self) -> None:
        if not self.locations:
            part = f"no part {self.part!r} in its" if self.part else "no"
            raise InvalidArgument(
                f"The codec folder {self.folder.name} has {part} *.safetensors files; put the codec's weights there.",
                reason="CODEC_WEIGHTS_MISSING",
                metadata={"folder": self.folder.name, "part": self.part},
            )

    @cached_property
    def locations(self) -> dict[str, tuple[Path, TensorInfo]]:
        """Tensor name within the part -> its file, and its type, shape and place there."""
        found: dict[str, tuple[Path, TensorInfo]] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            for name, tensor in _header(path).items():
                _, split, rest = f".{name}".partition(f".{self.part}.") if self.part else ("", ".", name)
                if split:
                    found[rest] = path, tensor
        return found

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that change with every weight."""
        total = hashlib.sha256()
        for name, (path, tensor) in sorted(self.locations.items()):
            total.update(name.encode())
            start, end = tensor.start, tensor.end
            with path.open("rb") as file:
                file.seek(start)
                while start < end:
                    total.update(chunk := file.read(min(1 << 20, end - start)))
                    start += len(chunk) or end
        return total.hexdigest()[:16]

    def state(self) -> dict[str, Any]:
        """The tensors by their names within the part, floating-point ones in float32."""
        from safetensors import safe_open

        wanted = {path for path, _ in self.locations.values()}
        state: dict[str, Any] = {}
        for path in sorted(wanted):
            with safe_open(path, framework="pt") as file:
                for name in file.keys():  # noqa: SIM118  not a mapping
                    rest = f".{name}".partition(f".{self.part}.")[2] if self.part else name
                    if rest:
                        tensor = file.get_tensor(name)
                        state[rest] = tensor.float() if tensor.is_floating_point() else tensor
        return state


class LazyModule:
    """A torch module for inference that is made on first use, once for all threads."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make = make
        self._lock = threading.Lock()
        self._module: Any = None

    def __call__(self) -> Any:
        """The module, in evaluation mode."""
        with self._lock:
            if self._module is None:
                self._module = self._make().eval().requires_grad_(False)
            return self._module


def load_folder(model_class: Any, weights: Weights) -> Any:
    """A transformers model from its own folder, in float32. Raises InvalidArgument CODEC_WEIGHTS_INVALID."""
    import torch

    from omnialign.modeling.weights_check import dry_load

    try:
        config = model_class.config_class.from_pretrained(weights.folder, local_files_only=True)
        # Before anything takes memory: the configuration is untrusted, and may be of another size than the weights.
        _check_names(weights, dry_load(model_class, config, {name: i for name, (_, i) in weights.locations.items()})[1])
        module, info = model_class.from_pretrained(
            weights.folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise invalid_weights(weights, str(error).partition("\n")[0]) from error
    _check_names(weights, info)
    return module


def _check_names(weights: Weights, info: Mapping[str, Any]) -> None:
    for names, what in ((info["missing_keys"], "missing"), (info["unexpected_keys"], "not known")):
        if names:
            raise invalid_weights(weights, f"{len(names)} weights are {what}: {', '.join(sorted(names)[:NAMES_SHOWN])}")


def load_part(make: Callable[[], Any], weights: Weights, rename: Callable[[str], str] = str) -> Any:
    """A module that `make` makes, with one part of a model's weights. Raises InvalidArgument CODEC_WEIGHTS_INVALID."""
    import torch

    try:
        with torch.device("meta"):  # a look at its sizes before it takes memory
            wanted = {name: tuple(tensor.shape) for name, tensor in make().state_dict().items()}
        found = {rename(name): tensor.shape for name, (_, tensor) in weights.locations.items()}
        if strays := sorted({name for name, shape in {*wanted.items()} ^ {*found.items()}}):
            shown = ", ".join(strays[:NAMES_SHOWN])
            raise invalid_weights(weights, f"{len(strays)} weights are missing, not known or of another size: {shown}")
        module = make()
        module.load_state_dict({rename(name): tensor for name, tensor in weights.state().items()})
    except (OSError, ValueError, RuntimeError) as error:
        raise invalid_weights(weights, " ".join(str(error).split())[:200]) from error
    return module


def invalid_weights(weights: Weights, why: str) -> InvalidArgument:
    """The error for weights that do not fit their codec."""
    return InvalidArgument(
        f"The weights in {weights.folder.name} do not fit their codec: {why}.",
        reason="CODEC_WEIGHTS_INVALID",
        metadata={"folder": weights.folder.name, "part": weights.part},
    )


def _header(path: Path) -> dict[str, TensorInfo]:
    """The tensors of a file by name."""
    try:
        return read_file_header(path)
    except (OSError, HeaderInvalid) as error:
        raise InvalidArgument(
            f"The weights file {path.name} in {path.parent.name} cannot be used: it {error}; copy it again.",
            reason="CODEC_WEIGHTS_INVALID",
            metadata={"folder": path.parent.name, "file": path.name},
        ) from error
