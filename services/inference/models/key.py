"""What an engine needs before it loads a model: the model's key, the device, and the adapter of its folder.

All engines choose them here, so that one configuration means the same on each of them.
"""

from contextlib import suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import torch
from prometheus_client import CollectorRegistry

from omnialign import names
from omnialign.errors import FailedPrecondition, OmnialignError
from omnialign.modeling.adapters import Adapter, load_adapter
from omnialign.modeling.feature_cache import NO_CACHE, Cache, FeatureCache
from services.inference.config import EngineConfig
from services.inference.metrics import FeatureMetrics
from services.sandbox.models import first_look

shared_feature_cache = cache(FeatureCache)
"""One cache per folder and bound, so that engines side by side do not compute the same features twice."""


@dataclass(frozen=True)
class ModelKey:
    """A resident model: one name in two dtypes is two models."""

    model: str
    dtype: torch.dtype

    @classmethod
    def of(cls, model: str, config: EngineConfig, *, deterministic: bool = False) -> "ModelKey":
        """The key under which an engine of this configuration keeps a model.

        Deterministic requests run in float32: in a shorter type the result of a sum depends visibly on its order, and
        kernels choose that order by the shape of the batch.
        """
        name = "float32" if deterministic else config.dtype
        if name == "auto":
            name = "float32" if pick_device(config.device).type == "cpu" else "bfloat16"
        return cls(model, getattr(torch, name))


def pick_device(name: str) -> torch.device:
    """The device that a configuration names; `auto` takes a GPU if there is one."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    return torch.device(name)


def open_feature_cache(config: EngineConfig, registry: CollectorRegistry) -> FeatureCache:
    """The cache that the settings name; from now on its counts go into `registry`."""
    features = shared_feature_cache(config.feature_cache, limit_bytes=config.feature_cache_bytes)
    with suppress(ValueError):  # another engine of this server counts already
        features.watch(FeatureMetrics(registry).count)
    return features


def load_model_adapter(folder: Path, model: str, features: Cache = NO_CACHE) -> Adapter:
    """The adapter of a model's folder; the features that it computes from media are kept in `features`.

    A child process reads the folder first. Raises FailedPrecondition with the reason that `first_look` or
    `load_adapter` gives, or MODEL_HAS_NO_ADAPTER.
    """
    try:
        first_look(folder, name=model, weights=False)
        return load_adapter(folder, features)
    except OmnialignError as error:
        raise _no_adapter(model, error.message, reason=error.reason) from error
    except Exception as error:  # a broken folder breaks whatever reads it
        raise _no_adapter(model, f"{type(error).__name__}: {error}", reason="MODEL_HAS_NO_ADAPTER") from error


def _no_adapter(model: str, why: str, *, reason: str) -> FailedPrecondition:
    return FailedPrecondition(
        f"The model {names.shown(model)} cannot be used: {why}",
        reason=reason,
        metadata={"model": model},
    )
