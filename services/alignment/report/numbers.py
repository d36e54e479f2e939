"""`report.json`: everything the page says in numbers, from the job and its statistics."""

import datetime
import math
from collections.abc import Mapping, Sequence
from typing import Any

from google.protobuf import json_format

from omnialign.v1 import alignment_service_pb2, data_service_pb2
from services.alignment.report import statistics

AlignmentJob = alignment_service_pb2.AlignmentJob
StageStatus = alignment_service_pb2.StageStatus

PAIR_FATES = ("kept", "tied", "lost", "abstained")


def report_numbers(
    job: AlignmentJob,
    *,
    records: Sequence[statistics.Record],
    curves: Mapping[str, Sequence[Mapping[str, float]]],
    edges: Sequence[data_service_pb2.LineageEdge],
) -> dict[str, Any]:
    """The content of `report.json`. Shares are 0 to 1, times seconds, and what was not measured is null."""
    pairs = {"tried": job.pairs.tried, **{fate: getattr(job.pairs, fate) for fate in PAIR_FATES}}
    stages = {status.stage: _stage(status, kept=job.pairs.kept) for status in job.stages}
    return {
        "job": job.name,
        "created": job.create_time.ToDatetime(datetime.UTC).isoformat(timespec="seconds"),
        "seed": job.spec.seed,
        "models": {name: getattr(job.models, name) for name in ("base", "feedback", "judge", "aligned")},
        "dataset": job.spec.dataset,
        **statistics.evaluate(records, seed=job.spec.seed),
        "pairs": pairs,
        "stages": stages,
        "seconds": sum(stage["seconds"] for stage in stages.values()),
        "tokens": sum(stage["tokens"] for stage in stages.values()),
        "training": {name: list(points) for name, points in curves.items()},
        "lineage": [{"source": e.source, "target": e.target, "relation": e.relation} for e in edges],
        "spec": json_format.MessageToDict(job.spec, preserving_proto_field_name=True),
    }


def _stage(status: StageStatus, *, kept: int) -> dict[str, Any]:
    seconds = status.elapsed.ToNanoseconds() / 1e9
    return {
        "state": StageStatus.State.Name(status.state).removeprefix("STATE_").lower(),
        "seconds": seconds,
        "completed": status.completed,
        "total": status.total,
        "quarantined": status.quarantined,
        "abstained": status.abstained,
        "tokens": status.tokens,
        "seconds_per_kept_pair": seconds / kept if kept else None,
        "tokens_per_kept_pair": status.tokens / kept if kept else None,
        "metrics": {name: value if math.isfinite(value) else None for name, value in status.metrics.items()},
    }
