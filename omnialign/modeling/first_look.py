"""The first look at a model's folder: all that reading it runs, once, before a service or a trainer relies on it.

A plain function of a folder, so that it can run in a process that may die: it imports no service, and its result and
its errors can be pickled. What it costs is bounded as far as that can be done from within: sizes, names and patterns
are checked before they are used, and templates count their steps. The rest, such as the regular expressions of a
tokenizer, is for the limits of that process.
"""

from dataclasses import dataclass
from pathlib import Path

from omnialign.modeling.adapters import load_adapter
from omnialign.modeling.inputs import Turn
from omnialign.modeling.lora import WEIGHTS as LORA_WEIGHTS
from omnialign.modeling.lora import LoraSettings, is_lora, literal_config, read_lora
from omnialign.modeling.model_files import FolderFiles, check_files, tensors, weight_paths
from omnialign.modeling.reward_folder import check_head

CONVERSATION = (Turn("user", ("Hello.",)), Turn("assistant", ("Hello!",)), Turn("user", ("What is a ring?",)))


@dataclass(frozen=True)
class ModelSummary:
    """What a folder holds; `lora` is None for a whole model."""

    parameter_count: int
    buffer_bytes: int = 0
    """Memory that the model takes besides its weights."""
    lora: LoraSettings | None = None


def inspect_model(folder: Path, *, weights: bool = True) -> ModelSummary:
    """Reads everything in a folder that loading its model reads, but no weights (blocking).

    Without `weights`, for folders with the settings alone, and for engines that load architectures of their own, the
    weights are not held against the configuration. Raises OmnialignError: the reasons of `check_files`, `load_adapter`
    and `check_weights`, for a LoRA those of `literal_config`, and for a reward model those of `check_head`.
    """
    files = FolderFiles(folder, name=folder.name)
    check_files(files)
    if is_lora(folder):
        literal_config(folder, name=folder.name)
        count = sum(tensor.num_elements for _, tensor in tensors(files, [LORA_WEIGHTS]))
        return ModelSummary(count, lora=read_lora(folder, name=folder.name))
    check_head(files)
    adapter = load_adapter(folder)
    adapter.encode(CONVERSATION)
    count = sum(tensor.num_elements for _, tensor in tensors(files, weight_paths(files)))
    if not weights:
        return ModelSummary(count)
    from omnialign.modeling.weights_check import check_weights  # a heavy library, which token models do not need before

    return ModelSummary(count, check_weights(folder))
