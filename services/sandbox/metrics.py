"""Prometheus metrics of the sandbox of a process."""

from prometheus_client import CollectorRegistry, Counter, Histogram

BUCKETS = (0.001, 0.01, 0.1, 0.5, 2.0, 10.0, 60.0)


class SandboxMetrics:
    """What the children did, by the function that they ran."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.deaths = Counter(
            "omnialign_sandbox_deaths",
            "Child processes that ended in the middle of a task, by task.",
            ["task"],
            registry=registry,
        )
        self.seconds = Histogram(
            "omnialign_sandbox_task_duration_seconds",
            "Time of a task in a child process, without the wait for one.",
            ["task"],
            buckets=BUCKETS,
            registry=registry,
        )
