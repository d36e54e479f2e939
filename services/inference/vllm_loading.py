"""Starting and ending vLLM engines: one per model, each with a process of its own for the scheduler and the model."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omnialign.modeling.adapters import Adapter
from services.inference import models
from services.inference.config import GIB, EngineConfig
from services.inference.loading import ModelKey
from services.inference.vllm_prompts import takes_media
from services.inference.vllm_span_config import span_config

ENVIRONMENT = {
    "VLLM_WORKER_MULTIPROC_METHOD": "spawn",  # gRPC's threads do not survive a fork
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",  # else the engines of several models would all sit on the same cores
    "VLLM_LOGGING_LEVEL": "WARNING",
    "VLLM_NO_USAGE_STATS": "1",
    "HF_HUB_OFFLINE": "1",
}
"""What vLLM is told by its environment, unless the operator has said otherwise."""

SPARE_BYTES = 2 * GIB
"""Device memory of an engine beside weights and cache: activations, graphs, the driver's context."""
CPU_BLOCK_TOKENS = 32
"""Tokens of a block of the cache on a CPU, where vLLM's own choice of 128 would share hardly any short prompt."""


@dataclass(frozen=True, eq=False)
class VllmModel:
    """A model that a vLLM engine runs. `context_tokens` bounds prompt and answer together."""

    key: ModelKey
    llm: Any
    adapter: Adapter
    context_tokens: int

    @property
    def is_dead(self) -> bool:
        """Whether the engine's process has ended by itself."""
        return bool(self.llm.errored)

    def stop(self) -> None:
        """Ends the engine's processes; takes seconds. Requests that are not done see a dead engine."""
        if self.llm.output_handler is not None and not self.llm.get_num_unfinished_requests():
            handler = self.llm.output_handler  # left alone it complains of an end that is wanted
            handler.get_loop().call_soon_threadsafe(handler.cancel)
        self.llm.shutdown()


def start_vllm(folder: Path, key: ModelKey, adapter: Adapter, config: EngineConfig) -> VllmModel:
    """Starts an engine; ready after half a minute. Raises FailedPrecondition MODEL_LOAD_FAILED."""
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_arguments(folder, key, adapter, config)))
    except Exception as error:  # vLLM raises whatever its parts raise
        raise models.load_failed(key.model, f"vLLM says {type(error).__name__}: {_words(error)}") from error
    return VllmModel(key, llm, adapter, context_tokens=llm.model_config.max_model_len)


def engine_arguments(folder: Path, key: ModelKey, adapter: Adapter, config: EngineConfig) -> dict[str, Any]:
    """Arguments of the engine; the operator's own come last."""
    return {
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
        **_platform_arguments(folder, key, config),
        **_span_arguments(adapter),
        **json.loads(config.vllm_options),
    }


def _span_arguments(adapter: Adapter) -> dict[str, Any]:
    if not adapter.media_spans:
        return {}
    return {
        "logits_processors": ["services.inference.vllm_spans:SpanProcessor"],
        "additional_config": span_config(adapter.media_spans),
    }


def _platform_arguments(folder: Path, key: ModelKey, config: EngineConfig) -> dict[str, Any]:
    """On a CPU nothing is compiled; on a GPU an engine takes its share of the memory and may sleep."""
    from vllm.platforms import current_platform

    if current_platform.is_cpu():
        return {"enforce_eager": True, "block_size": CPU_BLOCK_TOKENS, "skip_mm_profiling": True}
    weights = models.parameter_count(folder, model=key.model) * key.dtype.itemsize
    share = (weights + config.cache_budget_bytes + SPARE_BYTES) / current_platform.get_device_total_memory()
    return {"gpu_memory_utilization": min(0.95, share)}


def _words(error: Exception) -> str:
    """What vLLM says, in one line; the process that failed has logged the rest."""
    return " ".join(str(error).split()) or "no reason"
