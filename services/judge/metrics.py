"""Prometheus metrics of the ratings and choices that models are asked for. The names are promises."""

from typing import Any

from prometheus_client import CollectorRegistry, Counter

METHODS = ("ScoreUnderstanding", "ScoreGeneration", "AnswerQuestions")
"""Values of the label `method`: the RPCs that ask again."""
OUTCOMES = ("answered", "abstained", "failed")
"""Values of the label `outcome`."""


class JudgeMetrics:
    """The metrics of one judge service, in the registry of its server."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.attempts = Counter(
            "omnialign_judge_attempts_total",
            "Times that a model was asked for a rating or a choice, by outcome: answered, abstained, failed.",
            ("method", "outcome"),
            registry=registry,
        )
        for method in METHODS:
            for outcome in OUTCOMES:
                self.attempts.labels(method, outcome)

    def count(self, method: str, result: Any) -> None:
        """Counts a result, one of an attempt that is followed by another included."""
        kind = result.WhichOneof("result")
        outcome = {"error": "failed", "abstention": "abstained"}.get(kind, "answered")
        self.attempts.labels(method, outcome).inc()
