"""The training jobs of an alignment job: created once, followed to their end, and shown in their stage."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from omnialign import names
from omnialign.errors import AlreadyExists, FailedPrecondition, NotFound, OmnialignError, from_status
from omnialign.v1 import training_service_pb2
from services.alignment.job import FEEDBACK_MODELING, Job, Spec
from services.pipeline.kind import Change, JobContext, stage_of
from services.pipeline.planning import record_seed, request_id
from services.pipeline.service_calls import RETRYABLE, ServiceRetrier

TrainingJob = training_service_pb2.TrainingJob
TrainingSpec = training_service_pb2.TrainingSpec
TrainingCondition = training_service_pb2.TrainingCondition
FINISHED = (TrainingJob.STATE_SUCCEEDED, TrainingJob.STATE_FAILED, TrainingJob.STATE_CANCELLED)
"""States that a training job never leaves."""

FEEDBACK, JUDGE, REWARD, OPTIMIZE = "feedback", "judge", "reward", "optimize"
MAX_RESTARTS = 2
SERVICE = "training"

UpdateStage = Callable[[str, str, Change], Awaitable[None]]
"""Changes an alignment job: told its uid, the stage, and the change."""


@dataclass(frozen=True)
class TrainingRequest:
    """A training job to run. Its purpose is part of its name, and of the names of its metrics in the stage."""

    purpose: str
    spec: TrainingSpec


def training_job_name(job_name: str, purpose: str) -> str:
    """Name of the training job for one purpose of an alignment job."""
    training_job = f"{names.id_of(job_name)}-{purpose}"
    return names.format_name(names.TRAINING_JOB, project=names.project_of(job_name), training_job=training_job)


def fill(spec: TrainingSpec, plan: Spec, given: training_service_pb2.Hyperparameters) -> None:
    """Adds to a spec its hyperparameters, and what all training jobs of a plan share."""
    spec.hyperparameters.CopyFrom(given)
    spec.distribution.CopyFrom(plan.distribution)
    spec.media_policy.CopyFrom(plan.media_policy)
    spec.max_restarts = MAX_RESTARTS


def request(context: JobContext, spec: TrainingSpec, *, purpose: str) -> TrainingRequest:
    """The training job of a spec; where that has no seed, one is derived from the job's."""
    seed = record_seed(context.plan.seed, stage="training", record_id=purpose) % 2**31
    spec.hyperparameters.seed = spec.hyperparameters.seed or seed
    return TrainingRequest(purpose, spec)


class TrainingJobRunner:
    """Runs training jobs for alignment jobs."""

    def __init__(self, retrier: ServiceRetrier, *, update: UpdateStage) -> None:
        self._retrier, self._update = retrier, update

    async def run(self, context: JobContext, requests: Sequence[TrainingRequest], *, stage: str) -> dict[str, str]:
        """Trains, side by side as far as the service allows; returns the model of each purpose.

        Raises FailedPrecondition (`TRAINING_FAILED`, `TRAINING_CANCELLED`) if a job does not succeed; the others are
        cancelled then.
        """
        seen: dict[str, TrainingJob] = {}
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {
                    request.purpose: group.create_task(self._one(context, request, seen=seen, stage=stage))
                    for request in requests
                }
        except* OmnialignError as failures:
            await self.cancel(context, [request.purpose for request in requests])
            raise _first(failures) from None
        return {purpose: task.result() for purpose, task in tasks.items()}

    async def cancel(self, context: JobContext, purposes: Sequence[str]) -> None:
        """Cancels the training jobs of an alignment job for these purposes, as far as they were created."""

        async def cancel(purpose: str) -> None:
            try:
                await context.clients.training.cancel_training_job(training_job_name(context.name, purpose))
            except NotFound:
                return

        await asyncio.gather(
            *(
                self._retrier.call(lambda p=purpose: cancel(p), uid=context.uid, service=SERVICE)  # type: ignore[misc]
                for purpose in purposes
            )
        )

    async def _one(
        self, context: JobContext, request: TrainingRequest, *, seen: dict[str, TrainingJob], stage: str
    ) -> str:
        name = await self._create(context, request)
        await self._update(context.uid, stage, _adds(stage, name))
        job = await self._follow(context, name, request=request, seen=seen, stage=stage)
        if job.state == TrainingJob.STATE_SUCCEEDED:
            return str(job.model)
        raise _not_succeeded(job)

    async def _create(self, context: JobContext, request: TrainingRequest) -> str:
        async def create() -> str:
            training_job_id = f"{names.id_of(context.name)}-{request.purpose}"
            once = request_id(context.uid, f"train/{request.purpose}")
            job = await context.clients.training.create_training_job(training_job_id, request.spec, request_id=once)
            return str(job.name)

        try:
            return await self._retrier.call(create, uid=context.uid, service=SERVICE)
        except AlreadyExists as error:
            name = training_job_name(context.name, request.purpose)
            message = f"the training job '{name}' exists and belongs to something else; choose another job id"
            raise FailedPrecondition(message, reason="TRAINING_JOB_TAKEN", metadata={"name": name}) from error

    async def _follow(
        self, context: JobContext, name: str, *, request: TrainingRequest, seen: dict[str, TrainingJob], stage: str
    ) -> TrainingJob:
        wait = self._retrier.wait(context.uid, SERVICE)

        async def show(job: TrainingJob) -> bool:
            await wait.progressed()
            seen[request.purpose] = job
            await self._update(context.uid, stage, _shows(stage, seen))
            return job.state in FINISHED

        while True:
            try:
                # The job first, then what is new: its whole history would show a job that is far on at step 0 again.
                # A stream ends without a final event when its server drains: look, then watch again.
                job = await context.clients.training.get_training_job(name)
                if await show(job):
                    return job
                async for event in context.clients.training.watch_training_job(name, resume_after=job.last_event):
                    if await show(event.training_job):
                        return event.training_job
            except RETRYABLE as error:
                await wait.after(error)


def _adds(stage: str, name: str) -> Change:
    def change(job: Job) -> str | None:
        status = stage_of(job, stage)
        if name in status.training_jobs:
            return None
        status.training_jobs.append(name)
        return f"Training job {name.rpartition('/')[2]} created."

    return change


def _shows(stage: str, seen: dict[str, TrainingJob]) -> Change:
    """Puts the progress of all training jobs of a stage into its status."""

    def change(job: Job) -> str | None:
        status = stage_of(job, stage)
        progress = {purpose: seen[purpose].progress for purpose in sorted(seen)}
        total = sum(p.total_steps for p in progress.values())
        if total >= status.total:  # after a restart, until all jobs have been seen again, what is known stays
            status.completed, status.total = sum(p.completed_steps for p in progress.values()), total
        status.tokens = sum(p.tokens for p in progress.values())
        for purpose, p in progress.items():
            for measure, value in p.metrics.items():
                status.metrics[measure if stage != FEEDBACK_MODELING else f"{purpose}/{measure}"] = value
        held = {purpose: job.condition for purpose, job in sorted(seen.items()) if job.HasField("condition")}
        for purpose in [*status.conditions]:
            del status.conditions[purpose]
        for purpose, condition in held.items():
            status.conditions[purpose].CopyFrom(condition)
        steps = [f"step {status.completed} of {status.total}."] if status.total else []
        doings = [_sentence(c) if purpose == stage else f"{purpose}: {_sentence(c)}" for purpose, c in held.items()]
        return f"{stage}: " + (" ".join([*steps, *doings]) or "waits for its training.")

    return change


def _sentence(condition: TrainingCondition) -> str:
    """What a training job waits for or does, for example because the cluster is full."""
    return f"{condition.message.rstrip('.')} [{condition.reason}]."


def _not_succeeded(job: TrainingJob) -> FailedPrecondition:
    metadata = {"training_job": job.name}
    if job.state == TrainingJob.STATE_CANCELLED:
        message = f"the training job '{job.name}' was cancelled"
        return FailedPrecondition(message, reason="TRAINING_CANCELLED", metadata=metadata)
    cause = from_status(job.error)
    metadata["cause"] = cause.reason
    message = f"the training job '{job.name}' failed: {cause.message}"
    return FailedPrecondition(message, reason="TRAINING_FAILED", metadata=metadata)


def _first(failures: BaseExceptionGroup[OmnialignError]) -> OmnialignError:
    error: BaseException = failures
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, OmnialignError)
    return error
