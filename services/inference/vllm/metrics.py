"""vLLM's own metrics on the server's endpoint, for all models that are in memory.

vLLM registers the metrics of an engine with the library's global registry, and unregisters those of the engine before.
So the collectors of each engine are taken right after it has started, and are read together here. Samples of different
engines differ in the label `model_name`.
"""

from collections.abc import Iterator

from prometheus_client import REGISTRY, CollectorRegistry
from prometheus_client.metrics_core import Metric
from prometheus_client.registry import Collector

PREFIX = "vllm:"


class VllmMetrics(Collector):
    """Collects the metrics of several vLLM engines into one registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._engines: dict[object, list[Collector]] = {}
        registry.register(self)

    def add(self, engine: object) -> None:
        """Takes the metrics of an engine that has just started, before another one starts."""
        collectors = dict.fromkeys(REGISTRY._names_to_collectors.values())
        self._engines[engine] = [c for c in collectors if getattr(c, "_name", "").startswith(PREFIX)]

    def remove(self, engine: object) -> None:
        """Drops the metrics of an engine that has ended."""
        self._engines.pop(engine, None)

    def describe(self) -> list[Metric]:
        """Nothing: which metrics there are depends on the models."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics of all engines, each name once: Prometheus rejects a page that repeats one."""
        merged: dict[str, Metric] = {}
        for collectors in list(self._engines.values()):
            for metric in (metric for collector in collectors for metric in collector.collect()):
                known = merged.setdefault(metric.name, metric)
                if known is not metric:
                    known.samples.extend(metric.samples)
        yield from merged.values()
