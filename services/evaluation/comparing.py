"""Two models compared item by item, in one evaluation or in two that did the same."""

from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from omnialign import names
from omnialign.client import AsyncClient
from omnialign.errors import FailedPrecondition, InvalidArgument
from omnialign.v1 import evaluation_service_pb2
from services.evaluation.benchmarks.benchmark import Subject
from services.evaluation.estimates import Statistic, compare, only, paired
from services.evaluation.items import items_of
from services.evaluation.job import EVALUATION, SCORE, Job, Spec, parts_of, with_defaults
from services.evaluation.samples import Sample
from services.evaluation.scores import Key, Scoring, subject_of
from services.evaluation.summaries import composites_of
from services.pipeline.kind import Record, stage_of
from services.pipeline.service import Pipeline
from services.pipeline.service_calls import ServiceClients

Request = evaluation_service_pb2.CompareEvaluationsRequest
Response = evaluation_service_pb2.CompareEvaluationsResponse
Manifest = evaluation_service_pb2.EvaluationManifest
ScoreComparison = evaluation_service_pb2.ScoreComparison

COMPARED = ("benchmarks", "sampling", "seed", "media_policy", "templates", "code_version")
"""Fields of a manifest that must be alike: all but the models. The `modes` of the two models must be alike, too."""


@dataclass(frozen=True)
class Side:
    """One of the two models that are compared."""

    job: Job
    number: int
    """Of the model, from 1."""
    samples: Mapping[Key, Sample]
    """By key without the model."""

    @property
    def model(self) -> str:
        """Name of the model."""
        return str(self.job.manifest.models[self.number - 1].model)

    async def records(self, data: AsyncClient) -> AsyncIterator[Record]:
        """Its scored records in order of id; those of pairs are left out, for they are compared already."""
        async for record in data.stream_records(stage_of(self.job, SCORE).dataset):
            if _is_of(subject_of(record), self.number):
                yield record


@dataclass(frozen=True)
class Compared:
    """A model beside a baseline, and in what their evaluations differ."""

    side: Side
    baseline: Side
    unlike: Sequence[str]

    def response(self) -> Response:
        """The comparison of each score that both have."""
        found = [*_comparisons(self.side, self.baseline), *_composites(self.side, self.baseline)]
        return Response(comparisons=found, unlike=self.unlike)


async def read_compared(pipeline: Pipeline, request: Request) -> Compared:
    """What is compared: a model and a baseline, in one evaluation or in two that did the same.

    Raises FailedPrecondition (`EVALUATION_NOT_DONE`, `MANIFESTS_UNLIKE`) and InvalidArgument (`MODEL_UNCLEAR`,
    `MODEL_NOT_EVALUATED`).
    """
    job = await _done(pipeline, request.name)
    other = await _done(pipeline, request.baseline) if request.baseline else job
    baseline = _chosen(other, request.baseline_model, field="baseline_model")
    without = baseline if other is job else 0
    model = _chosen(job, request.model, field="model", without=without)
    unlike = [field for field in COMPARED if not _is_alike(job.manifest, other.manifest, field)]
    if _generators(job.manifest, model) != _generators(other.manifest, baseline):
        unlike.append("modes")
    if unlike and not request.allow_unlike:
        raise _unlike(request, unlike)
    clients = await pipeline.clients.of(names.project_of(request.name))
    return Compared(await _read_side(job, model, clients), await _read_side(other, baseline, clients), unlike)


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
        message = f"the evaluation '{name}' is {EVALUATION.state_label(job.state)}; compare evaluations that succeeded"
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


async def _read_side(job: Job, model: int, clients: ServiceClients) -> Side:
    plan, samples = plan_of(job), dict[Key, Sample]()
    side, scoring = Side(job, model, samples), Scoring(plan)
    for part in parts_of(plan):
        async for item in items_of(plan, part, clients):
            scoring.add_item(part, item)
    async for record in side.records(clients.data):
        scoring.add(record)
    samples.update(own_samples(scoring, model))
    return side


def own_samples(scoring: Scoring, model: int) -> dict[Key, Sample]:
    """What was scored of one model, by its number: by key without the model."""
    return {
        replace(key, subject=replace(key.subject, model=0)): sample
        for key, sample in scoring.close().items()
        if _is_of(key.subject, model)
    }


def _is_of(subject: Subject, model: int) -> bool:
    return subject.model == model and not subject.baseline


def _comparisons(side: Side, baseline: Side) -> Iterator[ScoreComparison]:
    parts, seed = {part.id: part for part in parts_of(plan_of(side.job))}, side.job.manifest.seed
    beside = baseline.samples
    for key, sample in side.samples.items():
        if key not in beside:
            continue
        found = _compared({key.group: sample}, {key.group: beside[key]}, only, seed=seed)
        if found is None:
            continue
        found.MergeFrom(
            ScoreComparison(
                benchmark=key.benchmark,
                judge=parts[key.benchmark].spec.judges[key.subject.judge - 1].model if key.subject.judge else "",
                measure=key.measure,
                group=key.group,
                ablation=parts[key.benchmark].spec.ablation if key.subject.is_ablated else "",
            )
        )
        yield found


def _composites(side: Side, baseline: Side) -> Iterator[ScoreComparison]:
    """AMU, AMG and overall, as far as both have them."""
    seed, plans = side.job.manifest.seed, (plan_of(side.job), plan_of(baseline.job))
    pairs = zip(composites_of(plans[0], side.samples, 0), composites_of(plans[1], baseline.samples, 0), strict=True)
    for (measure, parts, statistic), (_, beside, _) in pairs:
        try:
            found = _compared(parts, beside, statistic, seed=seed) if parts and beside else None
        except InvalidArgument:  # a part was not measured
            continue
        if found is not None:
            found.benchmark = found.measure = measure
            yield found


def _compared(
    parts: Mapping[str, Sample], beside: Mapping[str, Sample], statistic: Statistic, *, seed: int
) -> ScoreComparison | None:
    """A score beside the baseline's on the items that both have; None if there is none."""
    result = compare(beside, parts, statistic, seed=seed)
    if result.difference is None:
        return None
    means = {name: _paired_means(sample, beside[name]) for name, sample in parts.items() if name in beside}
    low, high = result.interval or (None, None)
    return ScoreComparison(
        items=result.paired,
        unpaired=result.unpaired,
        value=float(statistic({name: pair[0] for name, pair in means.items()})),
        baseline_value=float(statistic({name: pair[1] for name, pair in means.items()})),
        low=low,
        high=high,
        p_value=result.p_value,
    )


def _paired_means(first: Sample, second: Sample) -> tuple[float, float]:
    """The means on the items that both have."""
    one, other = (sums.sum(axis=0) for sums in paired(first, second))
    return float(one[0] / one[1]), float(other[0] / other[1])


def _is_alike(first: Manifest, second: Manifest, field: str) -> bool:
    return bool(getattr(first, field) == getattr(second, field))


def _generators(manifest: Manifest, number: int) -> dict[str, Any]:
    """What makes the media in a model's answers, by modality; None for the model itself."""
    makers = {one.generator.modality: one for one in manifest.generators}
    modes = (mode for mode in manifest.modes if mode.model == manifest.models[number - 1].model)
    return {mode.modality: makers[mode.modality] if mode.generator else None for mode in modes}


def _unlike(request: Request, fields: list[str]) -> FailedPrecondition:
    who = f"'{request.name}' and '{request.baseline}'" if request.baseline else f"the two models of '{request.name}'"
    message = (
        f"{who} differ in {', '.join(fields)} of their manifests, so their scores do not measure the same; evaluate "
        "both models alike, or allow it with allow_unlike"
    )
    return FailedPrecondition(message, reason="MANIFESTS_UNLIKE", metadata={"fields": ",".join(fields)})
