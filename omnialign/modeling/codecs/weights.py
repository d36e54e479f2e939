"""The weights of learned codecs: the tensors in a folder of safetensors files, or those of one part of a model.

Headers are read without torch, so a folder can be checked and its codec identified on machines that encode nothing.
"""

import hashlib
import json
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from omnialign.errors import InvalidArgument

MAX_HEADER_BYTES = 100_000_000


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
    def locations(self) -> dict[str, tuple[Path, int, int]]:
        """Tensor name within the part -> its file, and where in the file its bytes start and end."""
        found: dict[str, tuple[Path, int, int]] = {}
        for path in sorted(self.folder.glob("*.safetensors")):
            for name, (start, end) in _header(path).items():
                _, split, rest = f".{name}".partition(f".{self.part}.") if self.part else ("", ".", name)
                if split:
                    found[rest] = path, start, end
        return found

    @cached_property
    def digest(self) -> str:
        """Sixteen hexadecimal digits that change with every weight."""
        total = hashlib.sha256()
        for name, (path, start, end) in sorted(self.locations.items()):
            total.update(name.encode())
            with path.open("rb") as file:
                file.seek(start)
                while start < end:
                    total.update(chunk := file.read(min(1 << 20, end - start)))
                    start += len(chunk) or end
        return total.hexdigest()[:16]

    def state(self) -> dict[str, Any]:
        """The tensors by their names within the part, floating-point ones in float32."""
        from safetensors import safe_open

        wanted = {path for path, _, _ in self.locations.values()}
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

    try:
        module, info = model_class.from_pretrained(
            weights.folder, dtype=torch.float32, use_safetensors=True, local_files_only=True, output_loading_info=True
        )
    except (OSError, ValueError, RuntimeError, KeyError) as error:
        raise invalid_weights(weights, str(error).partition("\n")[0]) from error
    if missing := sorted(info["missing_keys"]):
        raise invalid_weights(weights, f"{len(missing)} weights are missing, such as {missing[0]}")
    return module


def load_part(module: Any, weights: Weights, rename: Callable[[str], str] = str) -> Any:
    """Fills a module with one part of a model's weights. Raises InvalidArgument CODEC_WEIGHTS_INVALID."""
    try:
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


def _header(path: Path) -> dict[str, tuple[int, int]]:
    """Tensor name -> where in the file its bytes start and end."""
    try:
        with path.open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(min(size, MAX_HEADER_BYTES)))
        offsets = {name: entry["data_offsets"] for name, entry in header.items() if name != "__metadata__"}
        return {name: (8 + size + int(start), 8 + size + int(end)) for name, (start, end) in offsets.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise InvalidArgument(
            f"The weights file {path.name} in {path.parent.name} is not valid safetensors; copy it again.",
            reason="CODEC_WEIGHTS_INVALID",
            metadata={"folder": path.parent.name, "file": path.name},
        ) from error
