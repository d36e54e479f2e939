"""Two models compared item by item, in one evaluation or in two that did the same."""

from collections.abc import Iterator
from dataclasses import replace

from omnialign import names
from omnialign.errors import FailedPrecondition, InvalidArgument
from omnialign.v1 import evaluation_service_pb2
from services.evaluation.estimates import compare, only
from services.evaluation.items import read_items
from services.evaluation.job import SCORE, Job, Spec, parts_of, with_defaults
from services.evaluation.samples import Sample
from services.evaluation.scores import Key, samples_of
from services.pipeline.kind import stage_of
from services.pipeline.service import Pipeline
from services.pipeline.service_calls import ServiceClients

Request = evaluation_service_pb2.CompareEvaluationsRequest
Response = evaluation_service_pb2.CompareEvaluationsResponse
Manifest = evaluation_service_pb2.EvaluationManifest

COMPARED = ("benchmarks", "sampling", "seed", "media_policy", "templates", "code_version")
"""Fields of a manifest that must be alike: all but the models."""


async def compare_evaluations(pipeline: Pipeline, request: Request) -> Response:
    """A model beside a baseline, on the items that both have scores of.

    Raises FailedPrecondition (`EVALUATION_NOT_DONE`, `MANIFESTS_UNLIKE`) and InvalidArgument (`MODEL_UNCLEAR`,
    `MODEL_NOT_EVALUATED`).
    """
    job = await _done(pipeline, request.name)
    other = await _done(pipeline, request.baseline) if request.baseline else job
    unlike = [field for field in COMPARED if not _is_alike(job.manifest, other.manifest, field)]
    if unlike and not request.allow_unlike:
        raise _unlike(request, unlike)
    baseline = _chosen(other, request.baseline_model, field="baseline_model")
    without = baseline if other is job else 0
    model = _chosen(job, request.model, field="model", without=without)
    clients = await pipeline.clients.of(names.project_of(request.name))
    found, beside = await _samples(job, model, clients), await _samples(other, baseline, clients)
    seed = job.manifest.seed
    return Response(comparisons=_comparisons(job, found, beside, seed=seed), unlike=unlike)


def plan_of(job: Job) -> Spec:
    """The plan of an evaluation, as its manifest tells it."""
    plan = with_defaults(job.spec)
    del plan.models[:], plan.benchmarks[:]
    plan.models.extend(identity.model for identity in job.manifest.models)
    plan.benchmarks.extend(identity.benchmark for identity in job.manifest.benchmarks)
    return plan


async def _done(pipeline: Pipeline, name: str) -> Job:
    job: Job = await pipeline.jobs.get(name)
    if job.state != Job.STATE_SUCCEEDED:
        state = Job.State.Name(job.state)
        message = f"the evaluation '{name}' is {state}; compare evaluations that succeeded"
        raise FailedPrecondition(message, reason="EVALUATION_NOT_DONE", metadata={"name": name, "state": state})
    return job


def _chosen(job: Job, model: str, *, field: str, without: int = 0) -> int:
    """Number of the model that is meant, from 1."""
    models = [identity.model for identity in job.manifest.models]
    if model:
        if model not in models:
            message = f"'{model}' is not among the models of '{job.name}': {', '.join(models)}"
            raise InvalidArgument(message, reason="MODEL_NOT_EVALUATED", violations=[(field, message)])
        return models.index(model) + 1
    left = [number for number, found in enumerate(models, start=1) if number != without]
    if len(left) != 1:
        message = f"'{job.name}' has the models {', '.join(models) or 'none'}; say which in `{field}`"
        raise InvalidArgument(message, reason="MODEL_UNCLEAR", violations=[(field, message)])
    return left[0]


async def _samples(job: Job, model: int, clients: ServiceClients) -> dict[Key, Sample]:
    """The samples of one model, by key without the model."""
    plan = plan_of(job)
    source = stage_of(job, SCORE).dataset
    records = [record async for record in clients.data.stream_records(source)]
    items = {part.id: (await read_items(plan, part, clients)).records for part in parts_of(plan)}
    return {
        Key(key.benchmark, replace(key.subject, model=0), key.measure, key.group): sample
        for key, sample in samples_of(plan, records, items).items()
        if key.subject.model == model and not key.subject.baseline  # a pair is compared already
    }


def _comparisons(
    job: Job, found: dict[Key, Sample], beside: dict[Key, Sample], *, seed: int
) -> Iterator[evaluation_service_pb2.ScoreComparison]:
    parts = {part.id: part for part in parts_of(plan_of(job))}
    for key, sample in found.items():
        if key not in beside:
            continue
        result = compare({key.group: beside[key]}, {key.group: sample}, only, seed=seed)
        if result.difference is None:
            continue
        low, high = result.interval or (None, None)
        value, baseline_value = _paired_means(sample, beside[key])
        yield evaluation_service_pb2.ScoreComparison(
            benchmark=key.benchmark,
            judge=parts[key.benchmark].spec.judges[key.subject.judge - 1].model if key.subject.judge else "",
            measure=key.measure,
            group=key.group,
            ablation=parts[key.benchmark].spec.ablation if key.subject.is_ablated else "",
            items=result.paired,
            unpaired=result.unpaired,
            value=value,
            baseline_value=baseline_value,
            low=low,
            high=high,
            p_value=result.p_value,
        )


def _paired_means(first: Sample, second: Sample) -> tuple[float, float]:
    """The means on the items that both have."""
    shared = [item for item in first.sums if item in second.sums]
    means = []
    for sample in (first, second):
        total, count = (sum(sample.sums[item][place] for item in shared) for place in (0, 1))
        means.append(total / count)
    return means[0], means[1]


def _is_alike(first: Manifest, second: Manifest, field: str) -> bool:
    return bool(getattr(first, field) == getattr(second, field))


def _unlike(request: Request, fields: list[str]) -> FailedPrecondition:
    message = (
        f"'{request.name}' and '{request.baseline}' differ in {', '.join(fields)} of their manifests, so their scores "
        "do not measure the same; evaluate both models alike, or allow it with allow_unlike"
    )
    return FailedPrecondition(message, reason="MANIFESTS_UNLIKE", metadata={"fields": ",".join(fields)})
