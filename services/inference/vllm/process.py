"""Starting and ending vLLM engines: one per model, each with processes of its own for scheduler and model."""

import asyncio
import importlib.util
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnialign.errors import Unavailable
from omnialign.modeling.adapters import Adapter
from services.inference.config import GIB, EngineConfig
from services.inference.constrained_decoding import spans_to_config
from services.inference.errors import load_failed
from services.inference.models import safetensors
from services.inference.models.key import ModelKey
from services.inference.vllm.requests import takes_media
from services.runtime.config import ConfigError

ENVIRONMENT = {
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # gRPC's threads do not survive a fork
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else the engines of several models would all use the same cores
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
"""Environment variables for vLLM, unless the operator has set them."""

SPARE_BYTES = 2 * GIB
"""Device memory of an engine beside weights and cache: activations, graphs, the driver's context."""
CPU_BLOCK_TOKENS = 32
"""Tokens per cache block on a CPU, where vLLM's own choice of 128 would share hardly any short prompt."""
WORKER_EXTENSION = "services.inference.vllm.worker_extension.WorkerExtension"
LOGITS_PROCESSOR = "services.inference.vllm.logits_processor:SpanProcessor"
MAX_LORAS = 4
"""LoRAs per batch, unless the operator has set another number; an engine keeps as many in memory."""
UNBOUNDED = 1 << 30


@dataclass(frozen=True, eq=False)
class VllmModel:
    """A model that a vLLM engine runs."""

    key: ModelKey
    llm: Any
    """vLLM's `AsyncLLM`."""
    adapter: Adapter
    context_tokens: int
    """Most tokens of a prompt and its answer together."""
    lora_rank: int = 0
    """LoRA rank that the engine has room for; 0 for none."""
    max_loras: int = UNBOUNDED
    """LoRAs that the engine may load in its life."""
    lora_loads: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    """Loads of LoRAs, under way or complete, by name."""
    lora: Any = None
    """vLLM's `LoRARequest` for requests to a LoRA; None for requests to the base."""

    @property
    def is_dead(self) -> bool:
        """Whether the engine's process has ended by itself."""
        return bool(self.llm.errored)

    def generate(self, prompt: Any, params: Any, request_id: str) -> Any:
        """The outputs of a request as they come."""
        return self.llm.generate(prompt, params, request_id, lora_request=self.lora)

    def stop(self) -> None:
        """Ends the engine's processes, which takes seconds. Requests that are not finished meet a dead engine."""
        if self.llm.output_handler is not None and not self.llm.get_num_unfinished_requests():
            # Left alone, the task that reads outputs would log an error about an end that is intended.
            handler = self.llm.output_handler
            handler.get_loop().call_soon_threadsafe(handler.cancel)
        self.llm.shutdown()


class EngineDied(Unavailable):
    """A model's process has ended; the next request starts it again."""

    def __init__(self, model: str) -> None:
        super().__init__(
            f"The vLLM engine of {model} has died; see its log for the reason. The next request starts it again.",
            reason="ENGINE_DIED",
            metadata={"model": model},
        )


def check_installed() -> None:
    """Raises ConfigError if vLLM is not installed: otherwise the process would start and then refuse every model."""
    if importlib.util.find_spec("vllm") is None:
        problem = "is vllm, which is not installed here; use the image built with VARIANT=vllm, or set transformers"
        raise ConfigError([(f"{EngineConfig.ENV_PREFIX}KIND", problem)])


def start_vllm(folder: Path, key: ModelKey, adapter: Adapter, config: EngineConfig, lora_rank: int = 0) -> VllmModel:
    """Starts an engine, with room for LoRAs of `lora_rank` unless that is 0; takes about half a minute.

    Raises FailedPrecondition MODEL_LOAD_FAILED.
    """
    for name, value in ENVIRONMENT.items():  # before vLLM is imported, which reads them
        os.environ.setdefault(name, value)
    try:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_arguments(folder, key, adapter, config, lora_rank)))
    except Exception as error:  # vLLM raises whatever its parts raise
        raise load_failed(key.model, f"vLLM says {type(error).__name__}: {one_line(error)}") from error
    return VllmModel(key, llm, adapter, llm.model_config.max_model_len, lora_rank, _max_loras(llm))


def engine_arguments(
    folder: Path, key: ModelKey, adapter: Adapter, config: EngineConfig, lora_rank: int = 0
) -> dict[str, Any]:
    """Arguments of the engine; the operator's own come last and win."""
    arguments = {
        "model": str(folder),
        "served_model_name": key.model,
        "dtype": str(key.dtype).removeprefix("torch."),
        "max_model_len": -1,  # as much as the cache holds, up to the model's own context
        "max_num_seqs": config.max_batch_rows,
        "max_num_batched_tokens": max(config.prefill_tokens, config.max_batch_rows),
        "kv_cache_memory_bytes": config.cache_budget_bytes,
        "enable_prefix_caching": True,
        "skip_tokenizer_init": not takes_media(adapter),  # our adapters are the tokenizers of token models
        "generation_config": "vllm",  # sampling is the caller's, not the folder's
        "trust_remote_code": False,
        "worker_extension_cls": WORKER_EXTENSION,
        **_platform_arguments(folder, key, config, lora_rank),
        **_span_arguments(adapter),
        **_lora_arguments(lora_rank),
        **json.loads(config.vllm_options),
    }
    if lora_rank and _is_cpu():
        arguments["max_loras"] += 1  # see `_max_loras`
    return arguments


def size_in_bytes(folder: Path, key: ModelKey, lora_rank: int) -> int:
    """What the weights take, with room for LoRAs of `lora_rank` on every matrix. Raises MODEL_LOAD_FAILED."""
    count = safetensors.parameter_count(folder, model=key.model)
    if lora_rank:
        count += (MAX_LORAS + 1) * safetensors.lora_parameter_count(folder, model=key.model, rank=lora_rank)
    return count * key.dtype.itemsize


def one_line(error: Exception) -> str:
    """The message of an error of vLLM in one line; the process that failed has logged the rest."""
    return " ".join(str(error).split()) or "no reason"


def _lora_arguments(rank: int) -> dict[str, Any]:
    if not rank:
        return {}
    return {
        "enable_lora": True,
        "max_lora_rank": rank,
        "max_loras": MAX_LORAS,
    }


def _max_loras(llm: Any) -> int:
    """How many LoRAs an engine may load in its life.

    On a CPU vLLM uses the LoRA in its last slot for requests that have none, so that slot must stay empty.
    """
    lora_config = llm.vllm_config.lora_config
    return lora_config.max_loras - 1 if lora_config is not None and _is_cpu() else UNBOUNDED


def _is_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def _span_arguments(adapter: Adapter) -> dict[str, Any]:
    """Constrained decoding runs in vLLM's worker processes, which import the processor by name."""
    if not adapter.media_spans:
        return {}
    return {
        "logits_processors": [LOGITS_PROCESSOR],
        "additional_config": spans_to_config(adapter.media_spans),
    }


def _platform_arguments(folder: Path, key: ModelKey, config: EngineConfig, lora_rank: int) -> dict[str, Any]:
    """On a CPU nothing is compiled. On a GPU an engine takes its share of the memory, beside those of other models."""
    from vllm.platforms import current_platform

    if _is_cpu():
        return {"enforce_eager": True, "block_size": CPU_BLOCK_TOKENS, "skip_mm_profiling": True}
    size_bytes = size_in_bytes(folder, key, lora_rank) + config.cache_budget_bytes + SPARE_BYTES
    share = size_bytes / current_platform.get_device_total_memory()
    return {"gpu_memory_utilization": min(0.95, share)}
