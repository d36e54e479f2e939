"""Prometheus metrics of engines and of the feature cache. The names are promises: dashboards and alerts use them."""

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from omnialign.v1 import generation_pb2

ROWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512)
FINISH_OUTCOMES: dict[int, str] = {
    generation_pb2.FINISH_REASON_UNSPECIFIED: "end",
    generation_pb2.FINISH_REASON_END: "end",
    generation_pb2.FINISH_REASON_STOP: "stop",
    generation_pb2.FINISH_REASON_LENGTH: "length",
}
"""Outcome of a request that was answered, by its finish reason, which endpoints may leave unset."""
OUTCOMES = ("end", "stop", "length", "error", "cancelled")
"""Values of the label `outcome`."""
SECONDS = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300)


class EngineMetrics:
    """The metrics of one engine, in the registry of its server."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.tokens = Counter(
            "omnialign_engine_tokens_total",
            "Tokens read (in) and written (out).",
            ("direction",),
            registry=registry,
        )
        self.requests = Counter(
            "omnialign_engine_requests_total",
            "Requests by outcome: end, stop, length, error, cancelled.",
            ("outcome",),
            registry=registry,
        )
        self.batch_rows = Histogram(
            "omnialign_engine_batch_rows", "Rows of a batch when it starts.", buckets=ROWS, registry=registry
        )
        self.rows_running = Gauge("omnialign_engine_rows_running", "Rows being generated.", registry=registry)
        self.queue_depth = Gauge("omnialign_engine_queue_depth", "Requests waiting for a batch.", registry=registry)
        self.queue_age = Gauge(
            "omnialign_engine_queue_age_seconds", "Age of the oldest request that waits.", registry=registry
        )
        self.queue_wait = Histogram(
            "omnialign_engine_queue_wait_seconds",
            "Time from the queue to a batch.",
            buckets=SECONDS,
            registry=registry,
        )
        self.generation = Histogram(
            "omnialign_engine_generation_seconds",
            "Time from the start of its batch to a request's last token.",
            buckets=SECONDS,
            registry=registry,
        )
        self.cache_bytes = Gauge(
            "omnialign_engine_cache_bytes", "Bytes of attention cache set aside for running batches.", registry=registry
        )
        self.cache_budget_bytes = Gauge(
            "omnialign_engine_cache_budget_bytes",
            "Bytes of attention cache that the engine may use.",
            registry=registry,
        )
        self.model_load = Histogram(
            "omnialign_engine_model_load_seconds",
            "Time to fetch a model and bring it into memory.",
            buckets=SECONDS,
            registry=registry,
        )
        self.models = Gauge("omnialign_engine_models_resident", "Models in memory.", registry=registry)
        self.model_bytes = Gauge(
            "omnialign_engine_model_bytes", "Bytes of the weights of all models in memory.", registry=registry
        )

        for direction in ("in", "out"):
            self.tokens.labels(direction)
        for outcome in OUTCOMES:
            self.requests.labels(outcome)  # so that the first error is an increase and not a new series

    def resident(self, models: int, size_bytes: int) -> None:
        """Sets how many models are in memory, and how many bytes they take."""
        self.models.set(models)
        self.model_bytes.set(size_bytes)


class PolicyMetrics:
    """The metrics of the policies of one engine, in the registry of its server."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.open = Gauge("omnialign_policies_open", "Policies that are open.", registry=registry)
        self.updates = Counter(
            "omnialign_policy_updates_total",
            "Updates of policies by outcome: ok or error.",
            ("outcome",),
            registry=registry,
        )
        self.update_seconds = Histogram(
            "omnialign_policy_update_seconds",
            "Time from an update's first message until its weights are loaded here and on all other replicas.",
            buckets=SECONDS,
            registry=registry,
        )
        for outcome in ("ok", "error"):
            self.updates.labels(outcome)


class FeatureMetrics:
    """The metrics of a feature cache, in the registry of its server."""

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
        """Adds to the counts; see `CacheCounts`."""
        self.lookups.labels("hit").inc(hits)
        self.lookups.labels("miss").inc(misses)
        self.moved.labels("read").inc(read_bytes)
        self.moved.labels("written").inc(written_bytes)
        self.size.inc(size_bytes)
