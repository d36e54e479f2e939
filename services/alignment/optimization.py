"""How a job optimises its policy: the training jobs of the method that its plan names."""

from collections.abc import Sequence

from omnialign import names
from omnialign.v1 import alignment_service_pb2, training_service_pb2
from services.alignment import training_jobs
from services.alignment.job import ONLINE_METHODS, TRAINED, Spec, of_round, policy_of, reward_terms
from services.alignment.training_jobs import TrainingRequest
from services.pipeline.kind import JobContext

TrainingSpec = training_service_pb2.TrainingSpec
RewardTerm = training_service_pb2.RewardTerm
Models = alignment_service_pb2.JobModels


def reward_request(context: JobContext, *, pairs: str, number: int) -> TrainingRequest:
    """The training job of a round's reward model, on its pairs."""
    spec = TrainingSpec(
        method="reward",
        base_model=context.job.models.base,
        dataset=pairs,
        output_model_id=f"{names.id_of(context.name)}-{training_jobs.REWARD}",
    )
    training_jobs.fill(spec, context.plan, context.plan.reward_training)
    return training_jobs.request(context, spec, purpose=of_round(training_jobs.REWARD, number))


def request(context: JobContext, *, dataset: str, splits: Sequence[str] = (), number: int) -> TrainingRequest:
    """The training job of a round, which optimises its policy on a dataset version."""
    spec = training_spec(
        context.plan,
        base_model=policy_of(context.job, number),
        dataset=dataset,
        splits=splits,
        output=f"{names.id_of(context.name)}-aligned",
        models=context.job.models,
    )
    return training_jobs.request(context, spec, purpose=of_round(training_jobs.OPTIMIZE, number))


def training_spec(
    plan: Spec, *, base_model: str, dataset: str, output: str, models: Models, splits: Sequence[str] = ()
) -> TrainingSpec:
    """What the plan's method trains; `models` are the job's, for rewards that name one."""
    chosen = plan.optimization
    spec = TrainingSpec(
        method=chosen.method, base_model=base_model, dataset=dataset, splits=splits, output_model_id=output
    )
    training_jobs.fill(spec, plan, chosen.hyperparameters)
    if chosen.HasField("lora"):
        spec.lora.CopyFrom(chosen.lora)
    # The settings of a method have the same field name in both messages.
    if own := chosen.WhichOneof("settings"):
        getattr(spec, own).CopyFrom(getattr(chosen, own))
    if chosen.method in ONLINE_METHODS:
        rollout = getattr(spec, chosen.method).rollout
        del rollout.rewards[:]
        rollout.rewards.extend(rewards(plan, models))
        rollout.deterministic |= plan.sampling.deterministic
    return spec


def rewards(plan: Spec, models: Models) -> list[RewardTerm]:
    """What answers are rewarded by, with the job's own models by their names; nothing for other methods."""
    return [_with_models(term, models) for term in reward_terms(plan)]


def _with_models(term: RewardTerm, models: Models) -> RewardTerm:
    named = RewardTerm()
    named.CopyFrom(term)
    if term.reward_model == TRAINED:
        named.reward_model = models.reward
    if term.judge == TRAINED:
        named.judge = models.judge
    if term.critic == TRAINED:
        named.critic = models.feedback
    return named
