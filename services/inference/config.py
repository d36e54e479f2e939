"""How an engine asks OpenAI-compatible endpoints, from the environment (`OMNIALIGN_ENGINE_OPENAI_*`).

Model names come from callers, so the operator says which endpoints may be asked at all: with none listed, none is,
loopback included. Otherwise anybody who may ask for a critique could make a pod send requests to its neighbours.


How an engine runs models, from the environment (`OMNIALIGN_ENGINE_*`).

Settings that every model service has: where the data service is, and what a request gets that does not ask for more.

Each service's own configuration extends this one with its environment prefix.
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


@dataclass(frozen=True)
class OpenAIConfig:
    """Endpoints, their keys, and how patiently they are asked."""

    openai_endpoints: tuple[str, ...] = ()
    """Base URLs that `openai+...` models may name, as in `https://host/v1`; scheme, host, port and path must all be
    the same. Empty means none."""
    openai_keys_file: Path | None = None
    """File with a line `BASE_URL KEY` per endpoint that wants a key; read again when it changes."""
    openai_concurrency: int = 64
    """Most requests that are at one endpoint at the same time; fewer while it is overloaded."""
    openai_connect_seconds: float = 5.0
    """How long a connection may take."""
    openai_request_seconds: float = 600.0
    """How long one try of a request may take."""
    openai_max_retries: int = 10
    """How often one request is tried again."""
    openai_retry_seconds: float = 120.0
    """How long after its first failure one request is tried again."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Numbers out of range and addresses that are none."""
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


GIB = 1 << 30


def default_cache() -> Path:
    """`omnialign` in the user's cache directory, or in that for temporary files where the user has no home."""
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache) / "omnialign"
    try:
        return Path.home() / ".cache" / "omnialign"
    except RuntimeError:  # a container's numeric user
        return Path(tempfile.gettempdir()) / "omnialign"


def default_model_cache() -> Path:
    """Where models are kept when nobody says."""
    return default_cache() / "models"


def default_feature_cache() -> Path:
    """Where features of media are kept when nobody says: beside the models."""
    return default_cache() / "features"


def is_json_object(text: str) -> bool:
    """Whether a text is a JSON object."""
    try:
        return isinstance(json.loads(text), dict)
    except ValueError:
        return False


@dataclass(frozen=True)
class EngineConfig(OpenAIConfig):
    """Devices, budgets and batch sizes of one engine."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_ENGINE_"

    kind: Literal["transformers", "vllm"] = "transformers"
    """What runs the models; `vllm` needs vLLM in the environment."""
    vllm_options: str = "{}"
    """Further arguments of vLLM's engine as a JSON object, as in `{"tensor_parallel_size": 2}`; they win over ours."""
    device: str = "auto"
    """Where models live: `cpu`, `cuda`, `cuda:1`, ...; `auto` takes a GPU if there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights; `auto` is float32 on a CPU and bfloat16 on a GPU. Deterministic requests run in float32."""
    model_budget_bytes: int = 8 * GIB
    """Memory that the weights of all resident models may take together."""
    tenure_seconds: float = 20.0
    """How long a model with work keeps its memory while requests wait for another that needs the room."""
    cache_budget_bytes: int = 2 * GIB
    """Memory that the key/value caches of all running batches may take together."""
    max_batch_rows: int = 128
    """Most rows of one model that run at the same time, deterministic requests aside."""
    prefill_tokens: int = 4096
    """Prompt tokens read in one go; between two such readings the other batches take a step."""
    max_waiting: int = 8192
    """Requests in the queue beyond which new ones are refused."""
    linger_seconds: float = 0.005
    """How long an idle engine waits for company before it starts a batch."""
    lanes: int = 0
    """Threads that run batches side by side; 0 means one on a GPU, and one per core up to four on a CPU."""
    threads: int = 0
    """Cores that the arithmetic of one lane uses; 0 shares them all out among the lanes."""
    codec_threads: int = 2
    """Threads that read and write prompts and media beside the model."""
    model_roots: tuple[Path, ...] = ()
    """Folders that `file://` models may lie in; empty means any."""
    model_cache: Path = field(default_factory=default_model_cache)
    """Folder where models are kept that were fetched from the data service; processes may share it."""
    model_cache_bytes: int = 100 * GIB
    """Bytes of those models together; beyond them the least recently used are removed."""
    feature_cache: Path = field(default_factory=default_feature_cache)
    """Folder where decoded and preprocessed media are kept; processes may share it."""
    feature_cache_bytes: int = 20 * GIB
    """Bytes of those features together; beyond them the least recently used are removed."""

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


MIB = 1 << 20


@dataclass(frozen=True)
class ModelServiceConfig:
    """What critique, refinement and judge services are told alike."""

    data_address: str
    """`host:port` of the data service, which holds media and models."""
    project: str = "default"
    """Project whose media are read and written."""
    max_new_tokens: int = 1024
    """Bound of new tokens of requests that name none."""
    media_cache_bytes: int = 64 * MIB
    """Bytes of media kept at hand."""

    def problems(self) -> Iterator[tuple[str, str]]:
        """Numbers out of range."""
        if self.max_new_tokens < 1:
            yield "max_new_tokens", "must be 1 or more"
        if self.media_cache_bytes < 0:
            yield "media_cache_bytes", "must be 0 or more"
