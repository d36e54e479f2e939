"""Settings of engines (`OMNIALIGN_ENGINE_*`) and of the services on top of them, read from the environment.

Field names are variable names, so they are promises: `linger_seconds` is `OMNIALIGN_ENGINE_LINGER_SECONDS`.
"""

import json
import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

from omnialign.errors import InvalidArgument
from services.inference.model_uri import base_url_of

MIB = 1 << 20
GIB = 1 << 30


@dataclass(frozen=True)
class OpenAIConfig:
    """How an engine asks OpenAI-compatible endpoints.

    Model names come from callers, so the operator decides which endpoints may be asked. With none listed, none may be,
    not even on loopback: otherwise anybody who may ask for a critique could make a pod send requests to its neighbours.
    """

    openai_endpoints: tuple[str, ...] = ()
    """Base URLs that `openai+...` models may name, such as `https://host/v1`; scheme, host, port and path must all
    match. Empty means none."""
    openai_keys_file: Path | None = None
    """File with a line `BASE_URL KEY` per endpoint that needs a key; read again when it changes."""
    openai_concurrency: int = 64
    """Most requests in flight to one endpoint; fewer while it is overloaded."""
    openai_connect_seconds: float = 5.0
    """How long connecting may take."""
    openai_request_seconds: float = 600.0
    """How long one attempt of a request may take."""
    openai_max_retries: int = 10
    """How many times one request is retried."""
    openai_retry_seconds: float = 120.0
    """How long after its first failure a request may still be retried."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Numbers out of range, and addresses that are not valid."""
        if self.openai_concurrency < 1:
            yield "openai_concurrency", "must be 1 or more"
        if self.openai_max_retries < 0:
            yield "openai_max_retries", "must be 0 or more"
        for name in ("openai_connect_seconds", "openai_request_seconds", "openai_retry_seconds"):
            if not 0 < getattr(self, name) < float("inf"):
                yield name, "must be a number of seconds above 0"
        for endpoint in self.openai_endpoints:
            try:
                base_url_of(endpoint, model=endpoint)
            except InvalidArgument as error:
                yield "openai_endpoints", error.message


def default_cache() -> Path:
    """`omnialign` in the user's cache directory, or in the temporary directory for a user without a home."""
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache) / "omnialign"
    try:
        return Path.home() / ".cache" / "omnialign"
    except RuntimeError:  # a container's numeric user
        return Path(tempfile.gettempdir()) / "omnialign"


def default_model_cache() -> Path:
    """Default folder of downloaded models."""
    return default_cache() / "models"


def default_policy_folder() -> Path:
    """Default folder of the weights of policies: beside the models."""
    return default_cache() / "policies"


def default_feature_cache() -> Path:
    """Default folder of media features: beside the models."""
    return default_cache() / "features"


@dataclass(frozen=True)
class EngineConfig(OpenAIConfig):
    """Devices, budgets and batch sizes of one engine."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_ENGINE_"

    kind: Literal["transformers", "vllm"] = "transformers"
    """What runs the models; `vllm` needs vLLM in the environment."""
    vllm_options: str = "{}"
    """Further arguments of vLLM's engine as a JSON object, such as `{"tensor_parallel_size": 2}`; they override the
    arguments that we set."""
    device: str = "auto"
    """Where models live: `cpu`, `cuda`, `cuda:1`, ...; `auto` takes a GPU if there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights; `auto` is float32 on a CPU and bfloat16 on a GPU. Deterministic requests run in float32."""
    model_budget_bytes: int = 8 * GIB
    """Memory for the weights of all resident models together."""
    tenure_seconds: float = 20.0
    """Minimum residency: how long a model with work keeps its memory while requests for another model wait for it."""
    cache_budget_bytes: int = 2 * GIB
    """Memory for the key/value caches of all running batches together."""
    max_batch_rows: int = 128
    """Most rows of one model that run at the same time, deterministic requests aside."""
    prefill_tokens: int = 4096
    """Prompt tokens per prefill step; between two of them the other batches take a step."""
    max_waiting: int = 8192
    """Queue length beyond which new requests are refused."""
    linger_seconds: float = 0.005
    """Batch delay: how long an idle engine waits for further requests before it starts a batch."""
    lanes: int = 0
    """Worker threads that run batches side by side; 0 means one on a GPU, and one per core up to four on a CPU."""
    threads: int = 0
    """Cores that the arithmetic of one worker uses; 0 divides all cores among the workers."""
    codec_threads: int = 2
    """Threads that encode prompts and decode answers, media included, beside the model."""
    model_roots: tuple[Path, ...] = ()
    """Folders that `file://` models may be in; empty means any."""
    model_cache: Path = field(default_factory=default_model_cache)
    """Folder of models downloaded from the data service; processes may share it."""
    model_cache_bytes: int = 100 * GIB
    """Size of that folder, beyond which the least recently used models are removed."""
    feature_cache: Path = field(default_factory=default_feature_cache)
    """Folder of decoded and preprocessed media; processes may share it."""
    feature_cache_bytes: int = 20 * GIB
    """Size of that folder, beyond which the least recently used features are removed."""

    policy_folder: Path = field(default_factory=default_policy_folder)
    """Folder of the weights of policies, two versions of each at most; processes may share it."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Numbers out of range."""
        yield from super().problems()
        positive = ("model_budget_bytes", "cache_budget_bytes", "max_batch_rows", "prefill_tokens", "max_waiting")
        for name in (*positive, "model_cache_bytes", "feature_cache_bytes"):
            if getattr(self, name) < 1:
                yield name, "must be 1 or more"
        for name in ("lanes", "threads"):
            if getattr(self, name) < 0:
                yield name, "must be 0 or more"
        if not is_json_object(self.vllm_options):
            yield "vllm_options", "must be a JSON object"
        if self.codec_threads < 1:
            yield "codec_threads", "must be 1 or more"
        if not 0 <= self.tenure_seconds <= 3600:
            yield "tenure_seconds", "must be between 0 and 3600"
        if not 0 <= self.linger_seconds <= 1:
            yield "linger_seconds", "must be between 0 and 1"


def is_json_object(text: str) -> bool:
    """Whether a text is a JSON object."""
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


@dataclass(frozen=True)
class ModelServiceConfig:
    """Settings that the critique, refinement and judge services share; each adds its environment prefix."""

    data_address: str
    """`host:port` of the data service, which holds media and models."""
    project: str = "default"
    """Project whose media are read and written."""
    max_new_tokens: int = 1024
    """Bound of new tokens for requests that set none."""
    media_cache_bytes: int = 64 * MIB
    """Bytes of media kept in memory."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Numbers out of range."""
        if self.max_new_tokens < 1:
            yield "max_new_tokens", "must be 1 or more"
        if self.media_cache_bytes < 0:
            yield "media_cache_bytes", "must be 0 or more"
