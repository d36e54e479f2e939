"""Writes docs/metrics.md from what the programs really register: `python -m tools.list_metrics`.

With `--check` it writes nothing and fails when the page is not up to date. The catalogue is also what the tests hold
the dashboards and alerts against.
"""

import argparse
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from prometheus_client import CollectorRegistry, Info
from prometheus_client.metrics import MetricWrapperBase

from services.alignment.job import ALIGNMENT
from services.alignment.summary import AlignmentMetrics
from services.annotation.drafting.job import DRAFTING
from services.annotation.metrics import AnnotationMetrics
from services.console.http_metrics import HttpMetrics
from services.data.garbage.collector import GarbageMetrics
from services.data.objects.s3_client import S3Metrics
from services.data.usage import UsageMetrics
from services.evaluation.job import EVALUATION
from services.evaluation.metrics import EvaluationMetrics
from services.inference.metrics import EngineMetrics, FeatureMetrics, PolicyMetrics
from services.inference.openai.metrics import EndpointMetrics
from services.judge.metrics import JudgeMetrics
from services.pipeline.metrics import PipelineMetrics
from services.runtime.auth.authenticator import AuthConfig
from services.runtime.auth.guard import Guard
from services.runtime.health import Readiness
from services.runtime.metrics import RpcMetrics, make_registry
from services.sandbox.pool import SandboxMetrics
from services.training.metrics import Metrics as TrainingMetrics
from training.methods import METHODS
from training.metrics import TrainMetrics

PAGE = Path(__file__).resolve().parent.parent / "docs" / "metrics.md"

OTHERS = {
    "ALERTS": "gauge",
    "DCGM_FI_DEV_FB_USED": "gauge",
    "DCGM_FI_DEV_XID_ERRORS": "gauge",
    "DCGM_FI_PROF_GR_ENGINE_ACTIVE": "gauge",
    "kubelet_volume_stats_available_bytes": "gauge",
    "kubelet_volume_stats_capacity_bytes": "gauge",
    "process_cpu_seconds_total": "counter",
    "process_max_fds": "gauge",
    "process_open_fds": "gauge",
    "process_resident_memory_bytes": "gauge",
    "process_start_time_seconds": "gauge",
    "vllm:generation_tokens_total": "counter",
    "vllm:inter_token_latency_seconds": "histogram",
    "vllm:kv_cache_usage_perc": "gauge",
    "vllm:mm_cache_hits_total": "counter",
    "vllm:mm_cache_queries_total": "counter",
    "vllm:num_preemptions_total": "counter",
    "vllm:num_requests_running": "gauge",
    "vllm:num_requests_waiting": "gauge",
    "vllm:prefix_cache_hits_total": "counter",
    "vllm:prefix_cache_queries_total": "counter",
    "vllm:prompt_tokens_total": "counter",
    "vllm:request_queue_time_seconds": "histogram",
    "vllm:request_success_total": "counter",
    "vllm:time_to_first_token_seconds": "histogram",
}
"""Metrics of Prometheus, of its client library, of vLLM 0.32, of the kubelet and of NVIDIA's exporter that we use."""

HEAD = """# Metrics

Made by `python -m tools.list_metrics` from what the programs register; a test keeps it true. Dashboards
(`charts/omnialign/dashboards`) and alerts (`charts/omnialign/files/rules`) use these names, so they are promises.

Services serve them on the port `OMNIALIGN_SERVER_METRICS_PORT`, rank 0 of a training job on
`OMNIALIGN_TRAINING_METRICS_PORT` (off when unset; on the address `OMNIALIGN_TRAINING_METRICS_HOST`, loopback by
default). Labels have few values: no job, user, dataset or text is ever one.

The dashboards expect these labels of the *target*, which the chart's monitors set; whoever scrapes otherwise sets them
too:

| label | value |
|---|---|
| `namespace`, `pod` | where the process runs |
| `component` | name of the service, `trainer`, or the name of an inference pool |
| `training_job` | on rank 0 of a training job: the id of the job |

A target must have no label `service`, as a ServiceMonitor of the Prometheus operator adds (the chart drops it): ours is
the full name of a gRPC service. The gateway counts the calls it passes on, too; add up with `component!="gateway"`.
"""


@dataclass(frozen=True)
class Described:
    """One metric: the name without the suffixes of a histogram's series, and what its registry knows of it."""

    name: str
    kind: str
    labels: tuple[str, ...]
    words: str


def catalogue() -> dict[str, list[Described]]:
    """All our metrics, by who exports them."""
    return {
        "Every service": _described(_service()),
        "Services with authentication": _described(_registered(lambda r: Guard(AuthConfig(), registry=r))),
        "Services that read files of others: data, alignment, evaluation, critique, refinement, judge": _described(
            _registered(SandboxMetrics)
        ),
        "Alignment service": _described(_registered(_alignment)),
        "Evaluation service": _described(_registered(_evaluation)),
        "Annotation service": _described(_registered(_annotation)),
        "Console": _described(_registered(HttpMetrics)),
        "Training service": _described(_registered(TrainingMetrics)),
        "Services with an engine: critique, refinement, judge": _described(_registered(_engine)),
        "Judge service": _described(_registered(JudgeMetrics)),
        "Services that use S3": _described(_registered(S3Metrics)),
        "Data service": _described(_registered(lambda r: (UsageMetrics(r), GarbageMetrics(r)))),
        "Rank 0 of a training job": _of_all_methods(),
    }


def _of_all_methods() -> list[Described]:
    """The metrics of training jobs, whatever their method measures."""
    found = [_described(TrainMetrics(method=method, model="base").registry) for method in METHODS]
    return sorted({metric.name: metric for part in found for metric in part}.values(), key=lambda metric: metric.name)


def known() -> dict[str, Described]:
    """Every metric that may be used, ours and others', by name. Those of others have no labels here."""
    others = {name: Described(name, kind, (), "") for name, kind in OTHERS.items()}
    return others | {metric.name: metric for part in catalogue().values() for metric in part}


def page() -> str:
    """The page."""
    parts = [HEAD]
    for title, metrics in catalogue().items():
        rows = [f"| `{m.name}` | {m.kind} | {', '.join(f'`{x}`' for x in m.labels)} | {m.words} |" for m in metrics]
        parts.append(
            "\n".join([f"## {title}\n", "| metric | type | labels | what it says |", "|---|---|---|---|", *rows])
        )
    return "\n".join(f"{part.rstrip()}\n" for part in parts)


def _service() -> CollectorRegistry:
    registry = make_registry("list")
    RpcMetrics(registry)
    Readiness(registry, ready=lambda name: None)
    return registry


def _alignment(registry: CollectorRegistry) -> None:
    PipelineMetrics(registry, ALIGNMENT)
    AlignmentMetrics(registry)


def _evaluation(registry: CollectorRegistry) -> None:
    PipelineMetrics(registry, EVALUATION)
    EvaluationMetrics(registry)


def _annotation(registry: CollectorRegistry) -> None:
    PipelineMetrics(registry, DRAFTING)
    AnnotationMetrics(registry)


def _engine(registry: CollectorRegistry) -> None:
    EngineMetrics(registry)
    EndpointMetrics(registry)
    FeatureMetrics(registry)
    PolicyMetrics(registry)


def _registered(register: Callable[[CollectorRegistry], object]) -> CollectorRegistry:
    registry = CollectorRegistry()
    register(registry)
    return registry


def _described(registry: CollectorRegistry) -> list[Described]:
    """Our metrics in a registry; those of the process and the platform are the client library's."""
    ours = [c for c in list(registry._collector_to_names) if isinstance(c, MetricWrapperBase)]
    return sorted(map(_describe, ours), key=lambda metric: metric.name)


def _describe(collector: MetricWrapperBase) -> Described:
    family = next(iter(collector.describe()))
    suffix = {"counter": "_total", "info": "_info"}.get(family.type, "")
    kind = "gauge" if family.type == "info" else family.type
    labels = tuple(collector._value) if isinstance(collector, Info) else tuple(collector._labelnames)
    return Described(family.name + suffix, kind, labels, family.documentation)


def main() -> None:
    """Writes the page, or checks it."""
    parser = argparse.ArgumentParser(description="Lists all metrics in docs/metrics.md.")
    parser.add_argument("--check", action="store_true", help="write nothing, fail when the page is not up to date")
    if not parser.parse_args().check:
        PAGE.write_text(page())
    elif PAGE.read_text() != page():
        sys.exit("docs/metrics.md is not up to date; run python -m tools.list_metrics.")
    print("docs/metrics.md is up to date")


if __name__ == "__main__":
    main()
