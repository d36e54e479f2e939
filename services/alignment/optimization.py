"""How a job optimises its initial model: the training job of the method that its plan names."""

from omnialign import names
from omnialign.v1 import training_service_pb2
from services.alignment import training_jobs
from services.alignment.job import of_round, policy_of
from services.alignment.training_jobs import TrainingRequest
from services.pipeline.kind import JobContext


def request(context: JobContext, *, dataset: str, number: int) -> TrainingRequest:
    """The training job of a round, which optimises its policy on a dataset version."""
    chosen, purpose = context.plan.optimization, of_round(training_jobs.OPTIMIZE, number)
    spec = training_service_pb2.TrainingSpec(
        method=chosen.method,
        base_model=policy_of(context.job, number),
        dataset=dataset,
        output_model_id=f"{names.id_of(context.name)}-aligned",
        hyperparameters=training_jobs.hyperparameters(context, chosen.hyperparameters, purpose=training_jobs.OPTIMIZE),
        distribution=context.plan.distribution,
        max_restarts=training_jobs.MAX_RESTARTS,
        media_policy=context.plan.media_policy,
    )
    # The settings of a method have the same field name in both messages.
    if own := chosen.WhichOneof("settings"):
        getattr(spec, own).CopyFrom(getattr(chosen, own))
    return TrainingRequest(purpose, spec)
