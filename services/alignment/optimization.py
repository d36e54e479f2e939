"""How a job optimises its initial model: the training job of the method that its plan names."""

from omnialign import names
from omnialign.v1 import training_service_pb2
from services.alignment import training_jobs
from services.alignment.job import Spec, of_round, policy_of
from services.alignment.training_jobs import TrainingRequest
from services.pipeline.kind import JobContext


def request(context: JobContext, *, dataset: str, number: int) -> TrainingRequest:
    """The training job of a round, which optimises its policy on a dataset version."""
    purpose, output = of_round(training_jobs.OPTIMIZE, number), f"{names.id_of(context.name)}-aligned"
    spec = training_spec(context.plan, base_model=policy_of(context.job, number), dataset=dataset, output=output)
    given = context.plan.optimization.hyperparameters
    spec.hyperparameters.CopyFrom(training_jobs.hyperparameters(context, given, purpose=training_jobs.OPTIMIZE))
    return TrainingRequest(purpose, spec)


def training_spec(plan: Spec, *, base_model: str, dataset: str, output: str) -> training_service_pb2.TrainingSpec:
    """What the plan's method trains; its seed is the plan's."""
    chosen = plan.optimization
    spec = training_service_pb2.TrainingSpec(
        method=chosen.method,
        base_model=base_model,
        dataset=dataset,
        output_model_id=output,
        hyperparameters=chosen.hyperparameters,
        distribution=plan.distribution,
        max_restarts=training_jobs.MAX_RESTARTS,
        media_policy=plan.media_policy,
    )
    # The settings of a method have the same field name in both messages.
    if own := chosen.WhichOneof("settings"):
        getattr(spec, own).CopyFrom(getattr(chosen, own))
    return spec
