"""Loading a model folder: weights by `transformers`, the adapter by `omnialign.modeling`."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from omnialign.errors import FailedPrecondition, OmnialignError
from omnialign.modeling.adapters import Adapter, load_adapter
from services.inference import models

UNLIMITED_TOKENS = 1 << 20


@dataclass(frozen=True)
class ModelKey:
    """A model as it is resident: the same name in two dtypes is two models."""

    model: str
    dtype: torch.dtype


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model in memory with what is needed to run it. `context_tokens` bounds prompt and answer together."""

    key: ModelKey
    module: Any
    adapter: Adapter
    device: torch.device
    context_tokens: int
    cache_bytes_per_token: int
    size_bytes: int


def measure(folder: Path, key: ModelKey) -> int:
    """Bytes that the weights take once loaded."""
    return models.parameter_count(folder, model=key.model) * key.dtype.itemsize


def load_model(folder: Path, key: ModelKey, device: torch.device) -> LoadedModel:
    """Reads a model. Raises FailedPrecondition MODEL_HAS_NO_ADAPTER or MODEL_LOAD_FAILED."""
    adapter = _load_adapter(folder, key.model)
    try:
        module = AutoModelForCausalLM.from_pretrained(
            folder, dtype=key.dtype, local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
        module = module.to(device).eval()
    except Exception as error:  # the library raises whatever its parts raise
        raise models.load_failed(key.model, f"{type(error).__name__}: {error}") from error
    config = module.config.get_text_config(decoder=True)
    return LoadedModel(
        key=key,
        module=module,
        adapter=adapter,
        device=device,
        context_tokens=getattr(config, "max_position_embeddings", None) or UNLIMITED_TOKENS,
        cache_bytes_per_token=_cache_bytes_per_token(config, key.dtype),
        size_bytes=sum(p.numel() * p.element_size() for p in module.parameters()),
    )


def _load_adapter(folder: Path, model: str) -> Adapter:
    try:
        return load_adapter(folder)
    except Exception as error:
        why = error.message if isinstance(error, OmnialignError) else f"{type(error).__name__}: {error}"
        raise FailedPrecondition(
            f"The model {model} has no adapter that reads and writes its content: {why}",
            reason="MODEL_HAS_NO_ADAPTER",
            metadata={"model": model},
        ) from error


def _cache_bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """Bytes of keys and values of one token in all layers."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * head_size * dtype.itemsize)
