"""The cache of media features that the engines of a process share, and its metrics."""

from contextlib import suppress
from functools import cache

from prometheus_client import CollectorRegistry, Counter, Gauge

from omnialign.modeling.feature_cache import FeatureCache
from services.inference.config import EngineConfig

shared = cache(FeatureCache)
"""One cache for each folder and bound, so that engines side by side do not make the same features twice."""


def open_features(config: EngineConfig, registry: CollectorRegistry) -> FeatureCache:
    """The cache that the settings name; what it does is counted in the registry from then on."""
    features = shared(config.feature_cache, limit_bytes=config.feature_cache_bytes)
    with suppress(ValueError):  # another engine of this server counts already
        features.watch(FeatureMetrics(registry).count)
    return features


class FeatureMetrics:
    """What a cache does. The names are promises: dashboards and alerts use them."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.lookups = Counter(
            "omnialign_feature_cache_lookups_total",
            "Media asked for: hit (their features were kept) or miss (they were decoded).",
            ("outcome",),
            registry=registry,
        )
        self.moved = Counter(
            "omnialign_feature_cache_io_bytes_total",
            "Bytes of features read and written.",
            ("direction",),
            registry=registry,
        )
        self.size = Gauge(
            "omnialign_feature_cache_bytes", "Bytes of the features kept, as far as counted.", registry=registry
        )
        for outcome, direction in (("hit", "read"), ("miss", "written")):
            self.lookups.labels(outcome)
            self.moved.labels(direction)

    def count(
        self, *, hits: int = 0, misses: int = 0, read_bytes: int = 0, written_bytes: int = 0, size_bytes: int = 0
    ) -> None:
        """Adds what happened; see `CacheCounts`."""
        self.lookups.labels("hit").inc(hits)
        self.lookups.labels("miss").inc(misses)
        self.moved.labels("read").inc(read_bytes)
        self.moved.labels("written").inc(written_bytes)
        self.size.inc(size_bytes)
