"""From the request that a person sends to a job with a plan: names resolved, defaults filled in, mistakes found.

Everything cheap that can be wrong is found here, while the caller still waits, with an error that says what to do.
"""

import uuid

from omnialign import checkers, names
from omnialign.errors import InvalidArgument
from omnialign.modeling.lora import not_trainable
from omnialign.v1 import alignment_service_pb2, generation_pb2
from services.alignment import preflight
from services.alignment.job import (
    ONLINE_METHODS,
    TRAINED,
    Job,
    Spec,
    StageStatus,
    is_binary,
    reward_terms,
    skipped_stages,
    stages_of,
    trains_reward_model,
    with_defaults,
)
from services.inference.model_uri import is_endpoint_model
from services.pipeline.given_names import check_subtasks, find_dataset, find_model
from services.pipeline.service import Pipeline
from services.pipeline.service_calls import ServiceClients

PROMPTS_SPLIT = "prompts"
FIELD = "alignment_job.spec"


async def create_job(pipeline: Pipeline, request: alignment_service_pb2.CreateAlignmentJobRequest) -> Job:
    """Submits a job, or with `validate_only` returns what it would be.

    Raises what `resolve`, `preflight.inspect` and `Jobs.submit` raise.
    """
    if (earlier := await pipeline.jobs.find_request(request)) is not None:
        return earlier  # type: ignore[no-any-return]
    clients = await pipeline.clients.of(names.project_of(request.parent))
    plan, models = await resolve(request.alignment_job.spec, clients, parent=request.parent)
    job = _new_job(request, plan, models)
    if request.validate_only:
        job.preflight.CopyFrom(await preflight.inspect(plan, clients))
        return job
    return await pipeline.jobs.submit(request, job, plan)  # type: ignore[no-any-return]


async def resolve(spec: Spec, clients: ServiceClients, *, parent: str) -> tuple[Spec, alignment_service_pb2.JobModels]:
    """The plan of a spec, and the models that are given.

    Raises NotFound for a dataset or model that does not exist, InvalidArgument for a name, checker, subtask, project or
    answer form that cannot be used, and FailedPrecondition (`DATASET_EMPTY`) for a dataset without a version.
    """
    checkers.check_names(spec.checkers, field="alignment_job.spec.checkers")
    plan = with_defaults(spec)
    version = await find_dataset(spec.dataset, clients, field=f"{FIELD}.dataset", parent=parent)
    plan.dataset = version.name
    check_subtasks(spec.subtasks, version, field=f"{FIELD}.subtasks")
    plan.base_model = await _model(spec.base_model, clients, field="base_model", parent=parent)
    models = alignment_service_pb2.JobModels(base=plan.base_model)
    if spec.feedback_model and not is_binary(plan):
        models.feedback = await _model(spec.feedback_model, clients, field="feedback_model", parent=parent)
    if spec.judge_model:
        models.judge = await _model(spec.judge_model, clients, field="judge_model", parent=parent)
    _check_repeatable(plan, models)
    _check_forms(plan)
    _check_rounds(plan)
    _check_method(plan)
    _check_review(plan)
    plan.prompt_split = spec.prompt_split or await _prompt_split(plan, clients)
    return plan, models


def _new_job(
    request: alignment_service_pb2.CreateAlignmentJobRequest, plan: Spec, models: alignment_service_pb2.JobModels
) -> Job:
    skipped = skipped_stages(plan, models)
    uid = str(uuid.uuid4())
    job_id = request.alignment_job_id or f"job-{uid[:8]}"
    name = names.format_name(names.ALIGNMENT_JOB, project=names.project_of(request.parent), alignment_job=job_id)
    job = Job(name=name, uid=uid, spec=request.alignment_job.spec, state=Job.STATE_QUEUED, models=models)
    for stage in stages_of(plan):
        state = StageStatus.STATE_SKIPPED if stage in skipped else StageStatus.STATE_PENDING
        job.stages.add(stage=stage, state=state)
    job.create_time.GetCurrentTime()
    job.update_time.CopyFrom(job.create_time)
    return job


async def _model(name: str, clients: ServiceClients, *, field: str, parent: str) -> str:
    """Resolves a model: to the name of one version, or to the folder or endpoint that was given."""
    found = await find_model(name, clients, field=f"{FIELD}.{field}", parent=parent)
    if field == "base_model":
        if found.is_lora:
            raise not_trainable(found.name, field=f"{FIELD}.{field}")
        if is_endpoint_model(found.name):
            raise _refused(
                field,
                f"'{name}' is behind an endpoint, so it cannot be trained",
                "name a folder or a registered version",
                reason="BASE_MODEL_NOT_TRAINABLE",
                model=name,
            )
    return found.name


def _check_repeatable(plan: Spec, models: alignment_service_pb2.JobModels) -> None:
    """Raises InvalidArgument (`ENDPOINT_NOT_DETERMINISTIC`) if an endpoint would have to give the same tokens again."""
    asked = [("feedback_model", models.feedback), ("judge_model", models.judge)] * plan.feedback_sampling.deterministic
    rewards = f"optimization.{plan.optimization.method}.rollout.rewards"
    for term in reward_terms(plan) if plan.sampling.deterministic else ():
        asked += [(rewards, term.judge), (rewards, term.critic)]
    for field, name in asked:
        if is_endpoint_model(name):
            raise _refused(
                field,
                f"'{name}' is behind an endpoint, which cannot promise the same tokens again",
                "leave `deterministic` out, or name a folder or a registered version",
                reason="ENDPOINT_NOT_DETERMINISTIC",
                model=name,
            )


def _check_method(plan: Spec) -> None:
    """Raises InvalidArgument (`METHOD_SETTINGS_WRONG`, `METHOD_NEEDS_FEEDBACK`) for a method that cannot run so."""
    method, own = plan.optimization.method, plan.optimization.WhichOneof("settings")
    if own and own != method:
        raise _refused(
            f"optimization.{own}",
            f"optimization.{own} has settings of {own}, and the method is {method}",
            f"leave them out, or set the method to {own}",
            reason="METHOD_SETTINGS_WRONG",
            method=method,
            settings=own,
        )
    if method == "sdpo" and is_binary(plan):
        raise _refused(
            "optimization.method",
            "sdpo learns from critiques of the policy's own responses, and annotated pairs have none",
            "set pair_source to language_feedback",
            reason="METHOD_NEEDS_FEEDBACK",
            method=method,
        )
    if is_binary(plan) and any(term.critic == TRAINED for term in reward_terms(plan)):
        raise _refused(
            f"optimization.{method}.rollout.rewards",
            f"the critic '{TRAINED}' is the feedback model of the job, and with annotated pairs it has none",
            "set pair_source to language_feedback, or name the model of the critic",
            reason="METHOD_NEEDS_FEEDBACK",
            method=method,
        )


def _check_review(plan: Spec) -> None:
    """Raises InvalidArgument (`REVIEW_WITHOUT_PAIRS`) if nothing is trained on the pairs that people would review."""
    method = plan.optimization.method
    uses_pairs = method not in ("sdpo", *ONLINE_METHODS) or trains_reward_model(plan)
    if plan.HasField("review") and not uses_pairs:
        raise _refused(
            "review",
            f"{method} does not learn from pairs here, so that a review would change nothing",
            "leave review out, or choose a method that learns from pairs",
            reason="REVIEW_WITHOUT_PAIRS",
            method=method,
        )


def _check_rounds(plan: Spec) -> None:
    """Raises InvalidArgument (`ROUNDS_NEED_FEEDBACK`) if rounds would train on the same annotated pairs again."""
    if plan.rounds > 1 and is_binary(plan):
        raise _refused(
            "rounds",
            f"rounds is {plan.rounds}, and annotated pairs are the same in every round",
            "set pair_source to language_feedback, or rounds to 1",
            reason="ROUNDS_NEED_FEEDBACK",
            rounds=str(plan.rounds),
        )


def _check_forms(plan: Spec) -> None:
    """Raises InvalidArgument (`ANSWER_FORM_NOT_TRAINED`) if a model that the job trains would be asked for JSON."""
    forms = (
        ("feedback", plan.feedback_answer_form, plan.feedback_model or is_binary(plan)),
        ("judge", plan.judge_answer_form, plan.judge_model),
    )
    for role, form, is_given in forms:
        if form == generation_pb2.ANSWER_FORM_JSON and not is_given:
            field = f"{role}_answer_form"
            raise _refused(
                field,
                f"no {role}_model is given, and the one that the job trains writes sections",
                f"leave {field} out, or name a {role}_model",
                reason="ANSWER_FORM_NOT_TRAINED",
                field=field,
            )


def _refused(at: str, message: str, mend: str, *, reason: str, **metadata: str) -> InvalidArgument:
    """The error for the field `at` of the spec."""
    return InvalidArgument(
        f"{message}; {mend}", reason=reason, metadata=metadata, violations=[(f"{FIELD}.{at}", message)]
    )


async def _prompt_split(plan: Spec, clients: ServiceClients) -> str:
    async for _ in clients.data.stream_records(plan.dataset, splits=[PROMPTS_SPLIT], limit=1):
        return PROMPTS_SPLIT
    return plan.feedback_split
