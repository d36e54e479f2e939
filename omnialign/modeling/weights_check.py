"""Whether the weights of a model folder are exactly those of its configuration, found out without reading them.

`transformers` fills weights that a file lacks with random numbers and drops those that it does not know. It tells, but
only once everything is in memory. So the same loading code runs here on tensors of the "meta" device, which have a
shape and no memory: it renames, joins and splits them as it would the real ones, and reports what is left over. It
takes a fraction of a second, and holds for every engine and for every ZeRO stage of the trainer.
"""

import logging
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from omnialign.errors import InvalidArgument, OmnialignError
from omnialign.modeling.model_files import FolderFiles, tensors, weight_paths
from omnialign.modeling.model_folder import SPEECH_PARTS, concrete_class, read_config
from omnialign.modeling.safetensors_header import TensorInfo

DTYPES = {
    "BOOL": torch.bool, "U8": torch.uint8, "I8": torch.int8, "I16": torch.int16, "I32": torch.int32, "I64": torch.int64,
    "F16": torch.float16, "BF16": torch.bfloat16, "F32": torch.float32, "F64": torch.float64,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2,
}  # fmt: skip
MAX_BUFFER_BYTES = 256 << 20
"""Memory for tensors that a model computes from its configuration, beyond the size of its weights."""
NAMES_SHOWN = 5


class WeightsMismatch(InvalidArgument):
    """The weights of a folder are not those of its configuration."""


def check_weights(folder: Path) -> int:
    """The bytes of a model's buffers, which are computed from the configuration and come on top of its weights.

    Raises WeightsMismatch, and InvalidArgument MODEL_WEIGHTS_INVALID, MODEL_CONFIG_INVALID.
    """
    files = FolderFiles(folder, name=folder.name)
    config = read_config(folder)
    if getattr(config, "quantization_config", None) is not None:
        return 0  # quantisers replace modules by others, on devices that only the engine has; see `check_loaded`
    found = dict(tensors(files, weight_paths(files)))
    try:
        model, info = dry_load(concrete_class(folder, config), config, found)
    except OmnialignError:
        raise
    except Exception as error:  # the library raises whatever its parts raise, for sizes that differ too
        raise _mismatch(folder, f"{type(error).__name__}: {' '.join(str(error).split())[:500]}") from error
    check_loaded(folder, info)
    file_bytes = sum(tensor.end - tensor.start for tensor in found.values())
    buffer_bytes: int = sum(buffer.numel() * buffer.element_size() for buffer in model.buffers())
    if buffer_bytes > file_bytes + MAX_BUFFER_BYTES:
        raise _mismatch(folder, f"config.json asks for {buffer_bytes} bytes beside their {file_bytes}")
    return buffer_bytes


def check_loaded(folder: Path, info: Mapping[str, Any]) -> None:
    """Raises WeightsMismatch for what `from_pretrained` reports with `output_loading_info`."""
    missing = info["missing_keys"]
    unexpected = [name for name in info["unexpected_keys"] if not name.startswith(SPEECH_PARTS)]
    if missing or unexpected:
        found = [_listed(names, what) for names, what in ((missing, "lack"), (unexpected, "have besides")) if names]
        raise _mismatch(folder, f"they {' and '.join(found)}", missing=missing, unexpected=unexpected)


def dry_load(model_class: Any, config: Any, found: Mapping[str, TensorInfo]) -> tuple[Any, dict[str, Any]]:
    """A model without memory, and the library's report of what did not fit. Raises whatever the library raises."""
    state = {name: torch.empty(info.shape, dtype=_dtype(name, info), device="meta") for name, info in found.items()}
    with _quiet():
        model, info = model_class.from_pretrained(
            None, config=config, state_dict=state, device_map={"": "meta"}, output_loading_info=True
        )
    return model, info


def _dtype(name: str, info: TensorInfo) -> torch.dtype:
    if info.dtype not in DTYPES:
        raise ValueError(f"{name} has the type {info.dtype}, which no model here is loaded from")
    return DTYPES[info.dtype]


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the library from printing its own report and a progress bar."""

    def nothing(record: logging.LogRecord) -> bool:
        return False

    # A filter, not a level: a logger with a level of its own has the library check and report a plan of shards.
    logger, had_bar = logging.getLogger("transformers.modeling_utils"), transformers_logging.is_progress_bar_enabled()
    logger.addFilter(nothing)
    transformers_logging.disable_progress_bar()
    try:
        yield
    finally:
        logger.removeFilter(nothing)
        if had_bar:
            transformers_logging.enable_progress_bar()


def _listed(names: Collection[str], what: str) -> str:
    shown = ", ".join(sorted(names)[:NAMES_SHOWN])
    return f"{what} {shown}" + (f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else "")


def _mismatch(
    folder: Path, why: str, *, missing: Collection[str] = (), unexpected: Collection[str] = ()
) -> WeightsMismatch:
    names = {"missing": ", ".join(sorted(missing)[:100]), "unexpected": ", ".join(sorted(unexpected)[:100])}
    return WeightsMismatch(
        f"The weights of {folder.name} do not fit its config.json: {why}; take both from the same release.",
        reason="MODEL_WEIGHTS_MISMATCH",
        metadata={"folder": folder.name, **names},
    )
