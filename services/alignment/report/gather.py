"""Reads what a report is made of, over clients of the services.

Only the evaluation table is indispensable. Anything else that is missing (a table that the job does not have, the
history of a training job, a deleted medium) leaves a gap in the report and a warning in the log: a report must not fail
a job whose work is done. Names that the job's messages hold are followed within its project only.
"""

import asyncio
import itertools
import logging
import math
from collections.abc import AsyncIterator
from dataclasses import dataclass, field

from omnialign import names
from omnialign.client import AsyncClient
from omnialign.errors import NotFound, OmnialignError
from omnialign.v1 import alignment_service_pb2, content_pb2, data_service_pb2, record_pb2
from services.alignment.report import gallery, lineage
from services.alignment.report.tallies import Tallies
from services.pipeline.pages.messages import fetch_media
from services.runtime.auth.stored_names import followable

AlignmentJob = alignment_service_pb2.AlignmentJob
Record = record_pb2.Record
Points = list[dict[str, float]]

HISTORY_TIMEOUT_SECONDS = 30.0
POINTS_MAX = 400
LOOP_RECORDS_MAX = 5000  # examples of the loop are chosen among these; numbers come from all records
HELD_OUT = "eval/"
"""How measures of examples held out begin."""
SILENT_CURVES = ("epoch", "step")

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Material:
    """What a report is made of."""

    tallies: Tallies
    """What was counted of the evaluation."""
    answers: dict[str, list[Record]]
    loop: list[Record]
    references: dict[str, content_pb2.Media]
    data: dict[str, bytes]
    curves: dict[str, Points] = field(default_factory=dict)
    edges: list[data_service_pb2.LineageEdge] = field(default_factory=list)


async def gather(job: AlignmentJob, *, data: AsyncClient, training: AsyncClient) -> Material:
    """Everything for the report of this job. Raises OmnialignError if the evaluation cannot be read."""
    tallies, chosen_answers = Tallies(), gallery.AnswerChoice(job.spec.seed)
    async for record in _records(data, _table(job, "evaluate", "evaluation")):
        tallies.add(record)
        chosen_answers.add(record)
    chosen_feedback = gallery.FeedbackChoice(job.spec.seed)
    if not _is_skipped(job, "verify"):
        async for record in _records(data, _table(job, "verify", "verify"), limit=LOOP_RECORDS_MAX):
            chosen_feedback.add(record)
    answers, loop = chosen_answers.close(), chosen_feedback.close()
    references = gallery.media_of([*itertools.chain(*answers.values()), *loop])
    return Material(
        tallies=tallies,
        answers=answers,
        loop=loop,
        references=references,
        data=await fetch_media(data, references),
        curves=await _curves(training, job),
        edges=await _edges(data, job),
    )


def _is_skipped(job: AlignmentJob, stage: str) -> bool:
    """Whether the job left a stage out."""
    states = {status.stage: status.state for status in job.stages}
    return states.get(stage) == alignment_service_pb2.StageStatus.STATE_SKIPPED


def _table(job: AlignmentJob, stage: str, suffix: str) -> str:
    """Name of the dataset that a stage wrote: from its status, or else by convention."""
    stated = followable((status.dataset for status in job.stages if status.stage == stage), holder=job.name)
    return next(iter(stated), "") or names.format_name(
        names.DATASET, project=names.project_of(job.name), dataset=f"{names.id_of(job.name)}-{suffix}"
    )


async def _records(client: AsyncClient, source: str, *, limit: int = 0) -> AsyncIterator[Record]:
    try:
        async for record in client.stream_records(source, limit=limit):
            yield record
    except NotFound:
        log.warning("report: table is missing", extra={"table": source})


async def _curves(client: AsyncClient, job: AlignmentJob) -> dict[str, Points]:
    """Metrics per step of each training job, by `stage/id of the training job`."""
    training_jobs = [
        (status.stage, name) for status in job.stages for name in followable(status.training_jobs, holder=job.name)
    ]
    curves = {}
    for stage, name in training_jobs:
        try:
            async with asyncio.timeout(HISTORY_TIMEOUT_SECONDS):
                curves[f"{stage}/{names.id_of(name)}"] = thinned(await _history(client, name))
        except (OmnialignError, TimeoutError) as error:
            log.warning("report: training history left out", extra={"training_job": name, "error": str(error)})
    return {name: points for name, points in curves.items() if points}


async def _history(client: AsyncClient, name: str) -> Points:
    points: dict[int, dict[str, float]] = {}
    async for event in client.watch_training_job(name):
        progress = event.training_job.progress
        finite = {k: v for k, v in progress.metrics.items() if math.isfinite(v) and k not in SILENT_CURVES}
        held_out = {k: v for k, v in finite.items() if k.startswith(HELD_OUT)}
        # Each report repeats what the last evaluation measured, which belongs to the step of that evaluation.
        for step, found in (
            (progress.completed_steps, {k: v for k, v in finite.items() if k not in held_out}),
            (progress.evaluated_step, held_out),
        ):
            if found:
                points.setdefault(step, {"step": step}).update(found)
    return [points[step] for step in sorted(points)]


def thinned(points: Points) -> Points:
    """At most `POINTS_MAX` evenly spaced points, and as many of evaluations; always the last, where training ended."""
    evaluated = [any(name.startswith(HELD_OUT) for name in point) for point in points]
    kept: set[int] = set()
    for kind in (True, False):
        places = [place for place, found in enumerate(evaluated) if found is kind]
        stride = math.ceil(len(places) / POINTS_MAX) or 1
        # Counted from the end, so that whatever the stride leaves out is at the beginning.
        kept.update(places[::-1][::stride])
    return [points[place] for place in sorted(kept)]


async def _edges(client: AsyncClient, job: AlignmentJob) -> list[data_service_pb2.LineageEdge]:
    edges: list[data_service_pb2.LineageEdge] = []
    for name in followable((job.models.aligned, job.name), holder=job.name):
        try:
            edges.extend((await client.get_lineage(name)).edges)
        except OmnialignError as error:
            log.warning("report: lineage left out", extra={"artefact": name, "reason": error.reason})
    return lineage.drawable(edges)
