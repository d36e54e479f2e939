"""vLLM's own metrics on the server's endpoint, for all models that are in memory.

vLLM registers the metrics of an engine with the library's global registry and takes out those of the engine before. So
the collectors of each engine are taken hold of right after it started, and read together here: the samples differ by
the label `model_name`.
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
        """Takes the metrics of an engine that has just started."""
        collectors = dict.fromkeys(REGISTRY._names_to_collectors.values())
        self._engines[engine] = [c for c in collectors if getattr(c, "_name", "").startswith(PREFIX)]

    def remove(self, engine: object) -> None:
        """Forgets an engine that has ended."""
        self._engines.pop(engine, None)

    def describe(self) -> list[Metric]:
        """Nothing: which metrics there are depends on the models."""
        return []

    def collect(self) -> Iterator[Metric]:
        """The metrics of all engines, those of one name together."""
        merged: dict[str, Metric] = {}
        for collectors in list(self._engines.values()):
            for metric in (metric for collector in collectors for metric in collector.collect()):
                known = merged.setdefault(metric.name, metric)
                if known is not metric:
                    known.samples.extend(metric.samples)
        yield from merged.values()
