"""How an engine runs models, from the environment (`OMNIALIGN_ENGINE_*`)."""

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

GIB = 1 << 30


def default_model_cache() -> Path:
    """`omnialign/models` in the user's cache directory, or in that for temporary files where the user has no home."""
    if cache := os.environ.get("XDG_CACHE_HOME"):
        return Path(cache) / "omnialign" / "models"
    try:
        return Path.home() / ".cache" / "omnialign" / "models"
    except RuntimeError:  # a container's numeric user
        return Path(tempfile.gettempdir()) / "omnialign" / "models"


@dataclass(frozen=True)
class EngineConfig:
    """Devices, budgets and batch sizes of one engine."""

    ENV_PREFIX: ClassVar[str] = "OMNIALIGN_ENGINE_"

    device: str = "auto"
    """Where models live: `cpu`, `cuda`, `cuda:1`, ...; `auto` takes a GPU if there is one."""
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    """Type of the weights; `auto` is float32 on a CPU and bfloat16 on a GPU. Deterministic requests run in float32."""
    model_budget_bytes: int = 8 * GIB
    """Memory that the weights of all resident models may take together."""
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

    def problems(self) -> Iterator[tuple[str, str]]:
        """Numbers out of range."""
        positive = ("model_budget_bytes", "cache_budget_bytes", "max_batch_rows", "prefill_tokens", "max_waiting")
        for name in (*positive, "model_cache_bytes"):
            if getattr(self, name) < 1:
                yield name, "must be 1 or more"
        for name in ("lanes", "threads"):
            if getattr(self, name) < 0:
                yield name, "must be 0 or more"
        if self.codec_threads < 1:
            yield "codec_threads", "must be 1 or more"
        if not 0 <= self.linger_seconds <= 1:
            yield "linger_seconds", "must be between 0 and 1"
