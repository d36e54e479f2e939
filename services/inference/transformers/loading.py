"""Loading a model folder: weights by `transformers`, a LoRA merged into its base by PEFT, the adapter by us."""

import inspect
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from omnialign.errors import OmnialignError
from omnialign.modeling import reward
from omnialign.modeling.adapters import Adapter
from omnialign.modeling.feature_cache import NO_CACHE, Cache
from omnialign.modeling.lora import literal_config, plain_settings, unsupported
from omnialign.modeling.model_folder import model_class
from omnialign.modeling.reward_folder import is_reward_model
from omnialign.modeling.weights_check import WeightsMismatch, check_loaded, check_weights
from services.inference.errors import load_failed
from services.inference.models import safetensors
from services.inference.models.key import ModelKey, load_model_adapter
from services.inference.models.resolver import ModelFiles

UNLIMITED_TOKENS = 1 << 20


@dataclass(frozen=True, eq=False)
class LoadedModel:
    """A model in memory with what is needed to run it."""

    key: ModelKey
    module: Any
    adapter: Adapter
    device: torch.device
    context_tokens: int
    """Most tokens of a prompt and its answer together."""
    cache_bytes_per_token: int
    size_bytes: int
    last_logits: Mapping[str, int] = field(default_factory=dict)
    """Further arguments of a forward pass that needs the logits of the last column only."""
    gives_rewards: bool = False
    """Whether it is a reward model, which writes nothing."""


def measure(folder: Path, key: ModelKey) -> int:
    """Bytes that the weights take once loaded."""
    return safetensors.parameter_count(folder, model=key.model) * key.dtype.itemsize


def load_model(files: ModelFiles, key: ModelKey, device: torch.device, features: Cache = NO_CACHE) -> LoadedModel:
    """Loads a model; a LoRA is merged into its base.

    Raises FailedPrecondition MODEL_LOAD_FAILED, MODEL_WEIGHTS_MISMATCH, REWARD_HEAD_INVALID, and what
    `load_model_adapter` and `merge_lora` raise.
    """
    adapter = load_model_adapter(files.folder, key.model, features)
    try:
        check_weights(files.folder)  # before they take memory
        module, info = model_class(files.folder).from_pretrained(
            files.folder,
            dtype=key.dtype,
            local_files_only=True,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        )
        check_loaded(files.folder, info)
        module = module.to(device).eval()
        last_logits = keep_last_logits(module)
    except WeightsMismatch as error:
        raise load_failed(key.model, error.message, reason=error.reason, metadata=error.metadata) from error
    except Exception as error:  # the library raises whatever its parts raise
        raise load_failed(key.model, f"{type(error).__name__}: {error}") from error
    if files.lora is not None:
        module = merge_lora(module, files.lora, model=key.model)
    gives_rewards = is_reward_model(files.folder)
    if gives_rewards:
        reward.add_head(module, _head(files.folder, module, model=key.model))
    config = module.config.get_text_config(decoder=True)
    return LoadedModel(
        key=key,
        module=module,
        adapter=adapter,
        device=device,
        context_tokens=getattr(config, "max_position_embeddings", None) or UNLIMITED_TOKENS,
        cache_bytes_per_token=_cache_bytes_per_token(config, key.dtype),
        size_bytes=sum(p.numel() * p.element_size() for p in module.parameters()),
        last_logits=last_logits,
        gives_rewards=gives_rewards,
    )


def _head(folder: Path, module: Any, *, model: str) -> reward.RewardHead:
    """The head of a reward model. Raises FailedPrecondition with the reason that `load_head` gives."""
    try:
        return reward.load_head(folder, hidden_size=reward.hidden_size(module))
    except OmnialignError as error:
        raise load_failed(model, error.message, reason=error.reason, metadata=error.metadata) from error


def keep_last_logits(module: Any) -> dict[str, int]:
    """Arguments with which a model computes the logits of the last column only.

    A model without such an argument is patched: the logits of whole prompts, (rows, columns, vocabulary), would take
    more memory than everything else.
    """
    if "logits_to_keep" in inspect.signature(module.forward).parameters:
        return {"logits_to_keep": 1}
    # The head gets hidden states (rows, columns, hidden) and now sees (rows, 1, hidden).
    module.get_output_embeddings().register_forward_pre_hook(lambda head, args: (args[0][:, -1:], *args[1:]))
    return {}


def merge_lora(module: Any, lora: Path, *, model: str) -> Any:
    """The module with a LoRA merged into its weights. Raises InvalidArgument LORA_UNSUPPORTED.

    Merged, it runs as a model of its own and costs nothing per step. A LoRA that does not fit is refused as a whole:
    PEFT would skip the weights that have no place, and the answers would be wrong.
    """
    from peft import LoraConfig, PeftModel  # takes seconds to import, and few models need it

    settings = literal_config(lora, name=model)
    try:
        config = LoraConfig(**plain_settings(settings))
        adapted = PeftModel(module, config, autocast_adapter_dtype=False)
        loaded = adapted.load_adapter(str(lora), "default", torch_device=str(module.device))
    except Exception as error:  # the library raises whatever its parts raise
        why = " ".join(str(error).split())
        raise unsupported(model, f"PEFT says {type(error).__name__}: {why}") from error
    if strays := [*loaded.unexpected_keys, *loaded.missing_keys]:
        raise unsupported(model, f"it does not fit its base ({len(strays)} weights, such as {strays[0]})")
    return adapted.merge_and_unload()


def _cache_bytes_per_token(config: Any, dtype: torch.dtype) -> int:
    """Bytes of the keys and values of one token in all layers."""
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head_size = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return int(2 * config.num_hidden_layers * heads * head_size * dtype.itemsize)
