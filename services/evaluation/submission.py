"""From the request that a person sends to an evaluation with a plan: names resolved, defaults filled in, faults found.

Everything cheap that can be wrong is found here, while the caller still waits, with an error that says what to do.
"""

import uuid
from importlib import metadata

from omnialign import checkers, names
from omnialign.content import LETTERS
from omnialign.errors import InvalidArgument
from omnialign.v1 import evaluation_service_pb2
from services.evaluation import preflight
from services.evaluation.benchmarks import BENCHMARKS
from services.evaluation.job import (
    ANSWER,
    STAGES,
    BenchmarkSpec,
    Job,
    Spec,
    StageStatus,
    pairs_beside,
    with_defaults,
)
from services.inference.model_uri import is_endpoint_model
from services.pipeline.given_names import check_subtasks, find_dataset, find_model
from services.pipeline.service import Pipeline
from services.pipeline.service_calls import ServiceClients

FIELD = "evaluation.spec"
OPTIONAL_FIELDS = ("judges", "checkers", "baseline", "ablation", "annotated_pairs")
"""Fields of a benchmark that only some benchmarks have."""

Manifest = evaluation_service_pb2.EvaluationManifest
Identity = evaluation_service_pb2.ModelIdentity
MediaGenerator = evaluation_service_pb2.MediaGenerator


async def create_evaluation(pipeline: Pipeline, request: evaluation_service_pb2.CreateEvaluationRequest) -> Job:
    """Submits an evaluation, or with `validate_only` returns what it would be.

    Raises what `resolve`, `preflight.inspect` and `Jobs.submit` raise.
    """
    earlier: Job | None = await pipeline.jobs.find_request(request)
    if earlier is not None:
        return earlier
    clients = await pipeline.clients.of(names.project_of(request.parent))
    plan, manifest = await resolve(request.evaluation.spec, clients, parent=request.parent)
    job = _new_job(request, plan, manifest)
    if request.validate_only:
        found, complete = await preflight.inspect(plan, manifest, clients)
        job.preflight.CopyFrom(found)
        job.manifest.CopyFrom(complete)
        return job
    submitted: Job = await pipeline.jobs.submit(request, job, plan)
    return submitted


async def resolve(spec: Spec, clients: ServiceClients, *, parent: str) -> tuple[Spec, Manifest]:
    """The plan of a spec, and its manifest as far as it is known before anything was read.

    Raises NotFound for a dataset or model that does not exist, InvalidArgument for what cannot be used, and
    FailedPrecondition (`DATASET_EMPTY`) for a dataset without a version.
    """
    plan = with_defaults(spec)
    manifest = Manifest(
        sampling=plan.sampling,
        seed=plan.seed,
        media_policy=plan.media_policy,
        code_version=metadata.version("omnialign"),
    )
    for number, name in enumerate(spec.models):
        found = await _model(name, clients, plan=plan, field=f"{FIELD}.models[{number}]", parent=parent)
        if found in manifest.models:
            raise _refused(
                f"models[{number}]", f"'{name}' is named twice", "name each model once", reason="MODEL_TWICE"
            )
        manifest.models.append(found)
        plan.models[number] = found.model
    for number, benchmark in enumerate(plan.benchmarks):
        at = f"benchmarks[{number}]"
        identity = manifest.benchmarks.add()
        await _resolve_benchmark(benchmark, clients, plan=plan, at=at, parent=parent, identity=identity)
        identity.benchmark.CopyFrom(benchmark)
    _add_annotated_pairs(plan, manifest)
    for number, generator in enumerate(plan.generators):
        at = f"generators[{number}]"
        model = await _resolve_generator(generator, clients, plan=plan, at=at, parent=parent)
        manifest.generators.add(generator=generator, model=model)
    if spec.models and not any(BENCHMARKS[b.name].tests_models for b in plan.benchmarks):
        message = "models under test are named, but no benchmark has them answer"
        raise _refused("models", message, "leave them out, or add such a benchmark", reason="MODELS_UNUSED")
    return plan, manifest


async def _resolve_benchmark(
    spec: BenchmarkSpec,
    clients: ServiceClients,
    *,
    plan: Spec,
    at: str,
    parent: str,
    identity: evaluation_service_pb2.BenchmarkIdentity,
) -> None:
    _check_fields(spec, at=at)
    checkers.check_names(spec.checkers, field=f"{FIELD}.{at}.checkers")
    version = await find_dataset(spec.dataset, clients, field=f"{FIELD}.{at}.dataset", parent=parent)
    spec.dataset = version.name
    check_subtasks(spec.subtasks, version, field=f"{FIELD}.{at}.subtasks")
    if spec.annotated_pairs:
        field = f"{FIELD}.{at}.annotated_pairs"
        spec.annotated_pairs = (await find_dataset(spec.annotated_pairs, clients, field=field, parent=parent)).name
    kind = BENCHMARKS[spec.name]
    for number, judge in enumerate(spec.judges):
        field = f"{FIELD}.{at}.judges[{number}].model"
        found = await _model(
            judge.model, clients, plan=plan, field=field, parent=parent, may_reward=kind.judges_may_reward
        )
        if kind.judges_must_reward and not found.reward_model:
            message = f"'{found.model}' writes answers, and the judge of {spec.name} is a reward model"
            at = field.removeprefix(f"{FIELD}.")
            raise _refused(at, message, "name one that was trained with the method reward", reason="JUDGE_UNFIT")
        identity.judges.append(found)
        judge.model = found.model
    if spec.baseline:
        field = f"{FIELD}.{at}.baseline"
        spec.baseline = (await _model(spec.baseline, clients, plan=plan, field=field, parent=parent)).model
        if spec.baseline not in plan.models:
            message = f"the baseline '{spec.baseline}' is not among the models of the evaluation"
            raise _refused(f"{at}.baseline", message, "add it to them", reason="BASELINE_UNKNOWN")
    if kind.tests_models and len(plan.models) < kind.min_models:
        message = f"{spec.name} needs at least {kind.min_models} models under test, and there are {len(plan.models)}"
        raise _refused("models", message, "name more", reason="MODELS_MISSING")


async def _resolve_generator(
    generator: MediaGenerator, clients: ServiceClients, *, plan: Spec, at: str, parent: str
) -> Identity:
    found = await _model(generator.model, clients, plan=plan, field=f"{FIELD}.{at}.model", parent=parent)
    generator.model = found.model
    if found.writes and LETTERS[generator.modality[0]] not in found.writes:
        message = f"'{found.model}' does not write {generator.modality}"
        raise _refused(f"{at}.model", message, "name a model that does", reason="GENERATOR_UNFIT")
    if sum(generator.modality == one.modality for one in plan.generators) > 1:
        message = f"there are several generators of {generator.modality}"
        raise _refused(f"{at}.modality", message, "name one", reason="GENERATOR_TWICE")
    return found


def _add_annotated_pairs(plan: Spec, manifest: Manifest) -> None:
    """Adds to a resolved plan the benchmarks that tell how far judges agree with people, each once."""
    for identity in list(manifest.benchmarks):
        beside = pairs_beside(identity.benchmark)
        if identity.benchmark.annotated_pairs and beside not in plan.benchmarks:
            plan.benchmarks.append(beside)
            manifest.benchmarks.add(benchmark=beside, judges=identity.judges)


async def _model(
    name: str, clients: ServiceClients, *, plan: Spec, field: str, parent: str, may_reward: bool = False
) -> Identity:
    """Resolves a model. Raises what `find_model` raises, and InvalidArgument (`ENDPOINT_NOT_DETERMINISTIC`)."""
    found = await find_model(name, clients, field=field, parent=parent, may_reward=may_reward)
    if plan.sampling.deterministic and is_endpoint_model(found.name):
        raise _refused(
            field.removeprefix(f"{FIELD}."),
            f"'{name}' is behind an endpoint, which cannot promise the same tokens again",
            "leave `deterministic` out, or name a folder or a registered version",
            reason="ENDPOINT_NOT_DETERMINISTIC",
        )
    return Identity(model=found.name, sha256=found.sha256, reward_model=found.is_reward, writes=found.writes)


def _check_fields(spec: BenchmarkSpec, *, at: str) -> None:
    """Raises InvalidArgument (`BENCHMARK_FIELD_MISSING`, `BENCHMARK_FIELD_UNUSED`) for fields of other benchmarks."""
    kind = BENCHMARKS[spec.name]
    for field in OPTIONAL_FIELDS:
        is_given = bool(getattr(spec, field))
        if field in kind.needs and not is_given:
            raise _refused(f"{at}.{field}", f"{spec.name} needs {field}", "give them", reason="BENCHMARK_FIELD_MISSING")
        if is_given and field not in kind.needs | kind.takes:
            message = f"{spec.name} has no {field}"
            raise _refused(f"{at}.{field}", message, "leave them out", reason="BENCHMARK_FIELD_UNUSED")


def _new_job(request: evaluation_service_pb2.CreateEvaluationRequest, plan: Spec, manifest: Manifest) -> Job:
    uid = str(uuid.uuid4())
    job_id = request.evaluation_id or f"evaluation-{uid[:8]}"
    name = names.format_name(names.EVALUATION, project=names.project_of(request.parent), evaluation=job_id)
    job = Job(name=name, uid=uid, spec=request.evaluation.spec, state=Job.STATE_QUEUED, manifest=manifest)
    for stage in STAGES:
        is_skipped = stage == ANSWER and not any(BENCHMARKS[b.name].is_answered for b in plan.benchmarks)
        job.stages.add(stage=stage, state=StageStatus.STATE_SKIPPED if is_skipped else StageStatus.STATE_PENDING)
    job.create_time.GetCurrentTime()
    job.update_time.CopyFrom(job.create_time)
    return job


def _refused(at: str, message: str, mend: str, *, reason: str) -> InvalidArgument:
    """The error for the field `at` of the spec."""
    return InvalidArgument(
        f"{message}; {mend}", reason=reason, metadata={"field": at}, violations=[(f"{FIELD}.{at}", message)]
    )
