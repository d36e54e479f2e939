"""The content of `report.json`: scores with intervals and counts, the manifest, and the items that went worst.

Pure: no files, no network.
"""

import datetime
from collections.abc import Iterable, Sequence
from typing import Any

from google.protobuf import json_format

from omnialign.v1 import evaluation_service_pb2
from services.evaluation.job import Job, Spec
from services.evaluation.report.cards import worst as worst_share
from services.evaluation.scores import subject_of
from services.evaluation.works import ABLATED, BENCHMARK, group_of, item_of
from services.pipeline.kind import Record

WORST = 100
"""Items that are told of, for each benchmark and subject; all of them are in the table of scores."""


def report_numbers(job: Job, plan: Spec, records: Sequence[Record]) -> dict[str, Any]:
    """All of it. What was not measured is null."""
    return {
        "evaluation": job.name,
        "created": job.create_time.ToDatetime(datetime.UTC).isoformat(timespec="seconds"),
        "models": list(plan.models),
        "modes": [mode_numbers(mode) for mode in job.manifest.modes],
        "scores": [score_numbers(score) for score in job.scores],
        "items": [item_numbers(record, plan) for record in worst(records)],
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


def worst(records: Iterable[Record]) -> list[Record]:
    """The records of lowest score, for each benchmark and subject, the lowest first; those without any come last."""
    groups: dict[Any, list[Record]] = {}
    for record in records:
        groups.setdefault((record.labels[BENCHMARK], subject_of(record)), []).append(record)
    return [record for group in groups.values() for record in sorted(group, key=lambda r: worst_share([r]))[:WORST]]
