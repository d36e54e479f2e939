"""Starting and ending vLLM engines: one per model, each with a process of its own for the scheduler and the model."""

import asyncio
import importlib.util
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from omnialign.modeling.adapters import Adapter
from services.inference.config import GIB, EngineConfig
from services.inference.constrained_decoding import span_config
from services.inference.errors import load_failed
from services.inference.models import safetensors
from services.inference.models.key import ModelKey
from services.inference.vllm.requests import takes_media
from services.runtime.config import ConfigError

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
WORKER = "services.inference.vllm.worker_extension.WorkerExtension"
MAX_LORAS = 4
"""LoRAs that a batch may be for, unless the operator has said otherwise; an engine keeps as many at hand."""
UNBOUNDED = 1 << 30


@dataclass(frozen=True, eq=False)
class VllmModel:
    """A model that a vLLM engine runs. `context_tokens` bounds prompt and answer together.

    `lora` is what its requests are for, if not the base; `loras` are those that the engine reads or has read,
    `most_loras` how many it may, and `lora_rank` is the rank that it has room for.
    """

    key: ModelKey
    llm: Any
    adapter: Adapter
    context_tokens: int
    lora_rank: int = 0
    most_loras: int = UNBOUNDED
    loras: dict[str, asyncio.Task[None]] = field(default_factory=dict)
    lora: Any = None

    @property
    def is_dead(self) -> bool:
        """Whether the engine's process has ended by itself."""
        return bool(self.llm.errored)

    def generate(self, prompt: Any, params: Any, request_id: str) -> Any:
        """The outputs of a request as they come."""
        return self.llm.generate(prompt, params, request_id, lora_request=self.lora)

    def stop(self) -> None:
        """Ends the engine's processes; takes seconds. Requests that are not done see a dead engine."""
        if self.llm.output_handler is not None and not self.llm.get_num_unfinished_requests():
            handler = self.llm.output_handler  # left alone it complains of an end that is wanted
            handler.get_loop().call_soon_threadsafe(handler.cancel)
        self.llm.shutdown()


def check_installed() -> None:
    """Raises ConfigError where there is no vLLM: else the process would start and refuse every model."""
    if importlib.util.find_spec("vllm") is None:
        problem = "is vllm, which is not installed here; take the image that VARIANT=vllm makes, or set transformers"
        raise ConfigError([(f"{EngineConfig.ENV_PREFIX}KIND", problem)])


def start_vllm(folder: Path, key: ModelKey, adapter: Adapter, config: EngineConfig, lora_rank: int = 0) -> VllmModel:
    """Starts an engine, with room for LoRAs if they have a rank; ready after half a minute.

    Raises FailedPrecondition MODEL_LOAD_FAILED.
    """
    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    try:
        from vllm import AsyncEngineArgs
        from vllm.v1.engine.async_llm import AsyncLLM

        llm = AsyncLLM.from_engine_args(AsyncEngineArgs(**engine_arguments(folder, key, adapter, config, lora_rank)))
    except Exception as error:  # vLLM raises whatever its parts raise
        raise load_failed(key.model, f"vLLM says {type(error).__name__}: {words_of(error)}") from error
    return VllmModel(key, llm, adapter, llm.model_config.max_model_len, lora_rank, _most_loras(llm))


def engine_arguments(
    folder: Path, key: ModelKey, adapter: Adapter, config: EngineConfig, lora_rank: int = 0
) -> dict[str, Any]:
    """Arguments of the engine; the operator's own come last."""
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
        "worker_extension_cls": WORKER,
        **_platform_arguments(folder, key, config, lora_rank),
        **_span_arguments(adapter),
        **_lora_arguments(lora_rank),
        **json.loads(config.vllm_options),
    }
    if lora_rank and _is_cpu():
        arguments["max_loras"] += 1  # see `_most_loras`
    return arguments


def size_in_bytes(folder: Path, key: ModelKey, lora_rank: int) -> int:
    """What weights take, with room for LoRAs of a rank on every matrix. Raises MODEL_LOAD_FAILED."""
    count = safetensors.parameter_count(folder, model=key.model)
    if lora_rank:
        count += (MAX_LORAS + 1) * safetensors.lora_parameter_count(folder, model=key.model, rank=lora_rank)
    return count * key.dtype.itemsize


def _lora_arguments(rank: int) -> dict[str, Any]:
    if not rank:
        return {}
    return {
        "enable_lora": True,
        "max_lora_rank": rank,
        "max_loras": MAX_LORAS,
    }


def _most_loras(llm: Any) -> int:
    """How many LoRAs an engine may read in its life.

    On a CPU vLLM takes what stands in the last place for the LoRA of requests that have none, so it must stay empty.
    """
    lora_config = llm.vllm_config.lora_config
    return lora_config.max_loras - 1 if lora_config is not None and _is_cpu() else UNBOUNDED


def _is_cpu() -> bool:
    from vllm.platforms import current_platform

    return bool(current_platform.is_cpu())


def _span_arguments(adapter: Adapter) -> dict[str, Any]:
    if not adapter.media_spans:
        return {}
    return {
        "logits_processors": ["services.inference.vllm.logits_processor:SpanProcessor"],
        "additional_config": span_config(adapter.media_spans),
    }


def _platform_arguments(folder: Path, key: ModelKey, config: EngineConfig, lora_rank: int) -> dict[str, Any]:
    """On a CPU nothing is compiled; on a GPU an engine takes its share of the memory and may sleep."""
    from vllm.platforms import current_platform

    if _is_cpu():
        return {"enforce_eager": True, "block_size": CPU_BLOCK_TOKENS, "skip_mm_profiling": True}
    size_bytes = size_in_bytes(folder, key, lora_rank) + config.cache_budget_bytes + SPARE_BYTES
    share = size_bytes / current_platform.get_device_total_memory()
    return {"gpu_memory_utilization": min(0.95, share)}


def words_of(error: Exception) -> str:
    """What vLLM says, in one line; the process that failed has logged the rest."""
    return " ".join(str(error).split()) or "no reason"
