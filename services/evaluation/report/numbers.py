"""The content of `report.json`: scores with intervals and counts, the manifest, and the items that went worst.

Pure: no files, no network.
"""

import datetime
from collections.abc import Sequence
from typing import Any

from google.protobuf import json_format

from omnialign.v1 import evaluation_service_pb2
from services.evaluation.job import Job, Spec
from services.evaluation.scores import subject_of
from services.evaluation.works import ABLATED, BENCHMARK, group_of, item_of
from services.pipeline.kind import Record


def report_numbers(job: Job, plan: Spec, items: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """All of it; `items` are the `item_numbers` that it tells of. What was not measured is null."""
    return {
        "evaluation": job.name,
        "created": job.create_time.ToDatetime(datetime.UTC).isoformat(timespec="seconds"),
        "models": list(plan.models),
        "modes": [mode_numbers(mode) for mode in job.manifest.modes],
        "scores": [score_numbers(score) for score in job.scores],
        "items": list(items),
        "stages": {
            status.stage: {
                "seconds": status.elapsed.ToMilliseconds() / 1000,
                "tokens": status.tokens,
                "completed": status.completed,
                "quarantined": status.quarantined,
                "abstained": status.abstained,
                "reused": status.reused,
            }
            for status in job.stages
        },
        "manifest": json_format.MessageToDict(job.manifest, preserving_proto_field_name=True),
    }


def mode_numbers(mode: evaluation_service_pb2.MediaMode) -> dict[str, Any]:
    """How media of a modality get into the answers of a model."""
    return {
        "model": mode.model,
        "modality": mode.modality,
        "mode": "agents" if mode.generator else "itself",
        "generator": mode.generator or None,
    }


def score_numbers(score: evaluation_service_pb2.BenchmarkScore) -> dict[str, Any]:
    """One score."""
    has_value = score.HasField("value")
    return {
        "benchmark": score.benchmark,
        "model": score.model or None,
        "baseline": score.baseline or None,
        "judge": score.judge or None,
        "measure": score.measure,
        "group": score.group or None,
        "without": score.ablation or None,
        "value": score.value if has_value else None,
        "interval": [score.low, score.high] if score.HasField("low") else None,
        "judged": score.judged,
        "abstained": score.abstained,
        "failed": score.failed,
    }


def item_numbers(record: Record, plan: Spec) -> dict[str, Any]:
    """One item as one subject fared on it."""
    subject = subject_of(record)
    found = record.responses[-1].assessments
    return {
        "item": item_of(record),
        "benchmark": record.labels[BENCHMARK],
        "group": group_of(record),
        "model": plan.models[subject.model - 1] if subject.model else None,
        "baseline": plan.models[subject.baseline - 1] if subject.baseline else None,
        "without": record.labels.get(ABLATED) or None,
        "scores": {a.aspect: None if a.abstain_reason else a.score for a in found},
        "abstained": {a.aspect: a.abstain_reason for a in found if a.abstain_reason},
    }
