"""The adapter of a model folder, and the cache of media features that the adapters of a process share."""

from contextlib import suppress
from functools import cache
from pathlib import Path

from prometheus_client import CollectorRegistry

from omnialign.errors import FailedPrecondition, OmnialignError
from omnialign.modeling.adapters import Adapter, load_adapter
from omnialign.modeling.feature_cache import NO_CACHE, Cache, FeatureCache
from services.inference.config import EngineConfig
from services.inference.metrics import FeatureMetrics

shared_feature_cache = cache(FeatureCache)
"""One cache for each folder and bound, so that engines side by side do not make the same features twice."""


def open_feature_cache(config: EngineConfig, registry: CollectorRegistry) -> FeatureCache:
    """The cache that the settings name; what it does is counted in the registry from then on."""
    features = shared_feature_cache(config.feature_cache, limit_bytes=config.feature_cache_bytes)
    with suppress(ValueError):  # another engine of this server counts already
        features.watch(FeatureMetrics(registry).count)
    return features


def load_model_adapter(folder: Path, model: str, features: Cache = NO_CACHE) -> Adapter:
    """The adapter of a model's folder; what it makes of media is kept in `features`.

    Raises FailedPrecondition with the reason that `load_adapter` gives, or MODEL_HAS_NO_ADAPTER.
    """
    try:
        return load_adapter(folder, features)
    except Exception as error:
        typed = isinstance(error, OmnialignError)
        why = error.message if typed else f"{type(error).__name__}: {error}"  # type: ignore[attr-defined]
        raise FailedPrecondition(
            f"The model {model} has no adapter that reads and writes its content: {why}",
            reason=error.reason if typed else "MODEL_HAS_NO_ADAPTER",  # type: ignore[attr-defined]
            metadata={"model": model},
        ) from error
