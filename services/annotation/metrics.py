"""What annotators do."""

from prometheus_client import CollectorRegistry, Counter

OUTCOMES = ("leased", "saved", "submitted", "skipped", "flagged", "lost", "imported")


class AnnotationMetrics:
    """Counts the steps of tasks."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._tasks = Counter(
            "omnialign_annotation_tasks_total",
            "Steps of annotation tasks, by outcome: leased, saved (a draft), submitted, skipped, flagged, lost "
            "(what somebody wrote after another had taken the seat), and imported (from another tool).",
            ("outcome",),
            registry=registry,
        )
        for name in OUTCOMES:  # `rate` sees no increase in a series that appears with its first value
            self._tasks.labels(name)

    def count(self, outcome: str) -> None:
        """Counts one step."""
        self._tasks.labels(outcome).inc()
