"""The sizes of a model that decide how much memory its training takes, read without torch and without its weights."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnialign.errors import OmnialignError
from omnialign.modeling.model_files import CONFIG, FolderFiles, read_object, tensors, weight_paths
from omnialign.modeling.safetensors_header import BITS, TensorInfo

_LAYER = re.compile(r"(?:^|\.)(?:layers|h|blocks)\.(\d+)\.")
_TOWER = re.compile(r"(?:^|[._])(?:vision|visual|image|audio|vqmodel|speech|talker|token2wav|code2wav)")
_EMBEDDINGS = re.compile(r"(?:embed_tokens|wte|word_embeddings|embed_in)\.weight$")
_KEYS = re.compile(r"\.k(?:ey)?_proj\.weight$")


@dataclass(frozen=True, kw_only=True)
class ModelShape:
    """Parameters by what they are for, and the widths of the language model."""

    parameters: int
    tower_parameters: int
    """Of encoders of media, and of codecs."""
    linear_parameters: int
    """Of the linear layers of the language model."""
    linear_sides: int
    """Inputs and outputs of those layers, summed: a LoRA has as many parameters times its rank."""
    largest_layer: int
    """Parameters of the largest layer, or of the embeddings if they are larger."""
    bytes_per_parameter: float
    """In the files."""
    layers: int
    hidden: int
    intermediate: int
    """Width of the feed-forward part."""
    key_value: int
    """Width of the keys, which are fewer than the queries in grouped attention."""
    vocabulary: int


def shape_of_folder(folder: Path) -> ModelShape | None:
    """The shape of the model in a folder, from the headers of its weights; None if it is no language model."""
    files = FolderFiles(folder, name=folder.name)
    try:
        found = dict(tensors(files, weight_paths(files)))
        return shape_of_tensors(found) or shape_of_config(read_object(files, CONFIG, reason="MODEL_CONFIG_INVALID"))
    except (OSError, OmnialignError):
        return None


def shape_of_tensors(found: Mapping[str, TensorInfo]) -> ModelShape | None:
    """The shape of the model that has these tensors; None if it is not that of a language model."""
    counts = {name: info.num_elements for name, info in found.items()}
    own = {name: info for name, info in found.items() if not _TOWER.search(name)}
    embeddings = [info.shape for name, info in own.items() if _EMBEDDINGS.search(name) and len(info.shape) == 2]
    in_layers = {name: info for name, info in own.items() if _LAYER.search(name)}
    linear = {name: info.shape for name, info in in_layers.items() if len(info.shape) == 2}
    if not embeddings or not linear:
        return None
    vocabulary, hidden = max(embeddings)
    by_layer: dict[str, int] = {}
    for name in in_layers:
        index = _LAYER.findall(name)[0]
        by_layer[index] = by_layer.get(index, 0) + counts[name]
    keys = [shape[0] for name, shape in linear.items() if _KEYS.search(name)]
    return ModelShape(
        parameters=sum(counts.values()),
        tower_parameters=sum(counts[name] for name in found.keys() - own.keys()),
        linear_parameters=sum(counts[name] for name in linear),
        linear_sides=sum(sum(shape) for shape in linear.values()),
        largest_layer=max(*by_layer.values(), vocabulary * hidden),
        bytes_per_parameter=sum(BITS[i.dtype] * counts[n] for n, i in found.items()) / 8 / sum(counts.values()),
        layers=len(by_layer),
        hidden=hidden,
        intermediate=max(max(shape) for shape in linear.values()),
        key_value=min(keys, default=hidden),
        vocabulary=vocabulary,
    )


def shape_of_settings(folder: Path, *, parameters: int, size_bytes: int) -> ModelShape | None:
    """The shape of a model of which a folder has only the settings; see `shape_of_config`."""
    try:
        config = read_object(FolderFiles(folder, name=folder.name), CONFIG, reason="MODEL_CONFIG_INVALID")
    except (OSError, OmnialignError):
        return None
    return shape_of_config(config, parameters=parameters, size_bytes=size_bytes)


def shape_of_config(config: Mapping[str, Any], *, parameters: int = 0, size_bytes: int = 0) -> ModelShape | None:
    """The shape that a config.json says, of a model of whose files only the settings are here.

    `parameters` and `size_bytes` are the registry's; 0 means what the language model alone would have. None if the
    settings do not say the widths.
    """
    text = _language_model(config)
    try:
        hidden, layers, vocabulary = (int(text[k]) for k in ("hidden_size", "num_hidden_layers", "vocab_size"))
        heads = int(text["num_attention_heads"])
        size = int(text.get("head_dim") or hidden // heads)
        key_value = size * int(text.get("num_key_value_heads") or heads)
        intermediate = int(text.get("intermediate_size") or 4 * hidden)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return None
    # q, k, v, o and the three of the feed-forward part: (in, out) each.
    sides = [(hidden, size * heads), *[(hidden, key_value)] * 2, (size * heads, hidden), *[(hidden, intermediate)] * 3]
    per_layer = sum(wide * high for wide, high in sides)
    tables = vocabulary * hidden * (1 if text.get("tie_word_embeddings", config.get("tie_word_embeddings")) else 2)
    language_model = layers * per_layer + tables
    parameters = parameters or language_model
    return ModelShape(
        parameters=parameters,
        tower_parameters=max(parameters - language_model, 0) if text is not config else 0,
        linear_parameters=layers * per_layer,
        linear_sides=layers * sum(wide + high for wide, high in sides),
        largest_layer=max(per_layer, vocabulary * hidden),
        bytes_per_parameter=size_bytes / parameters if size_bytes else 4.0,
        layers=layers,
        hidden=hidden,
        intermediate=intermediate,
        key_value=key_value,
        vocabulary=vocabulary,
    )


def _language_model(config: Mapping[str, Any]) -> Mapping[str, Any]:
    """The settings of the language model within those of a larger one."""
    for key in ("thinker_config", "text_config", "llm_config"):
        if isinstance(inner := config.get(key), Mapping):
            return _language_model(inner)
    return config
