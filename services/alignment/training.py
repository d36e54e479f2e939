"""The training jobs of an alignment job: created once, followed to their end, and reported in their stage."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

from omnialign.errors import AlreadyExists, FailedPrecondition, NotFound, OmnialignError, from_status
from omnialign.v1 import training_service_pb2
from services.alignment.job import Work, job_id_of, stage_of
from services.alignment.patience import Patience
from services.alignment.seeds import record_seed, request_id
from services.alignment.store import Job

TrainingJob = training_service_pb2.TrainingJob
TrainingSpec = training_service_pb2.TrainingSpec
ENDED = (TrainingJob.STATE_SUCCEEDED, TrainingJob.STATE_FAILED, TrainingJob.STATE_CANCELLED)

FEEDBACK, JUDGE, OPTIMIZE = "feedback", "judge", "optimize"
PURPOSES = (FEEDBACK, JUDGE, OPTIMIZE)
MAX_RESTARTS = 2

Report = Callable[[str, Callable[[Job], str | None]], Awaitable[None]]
"""Changes the alignment job: told the stage and the change."""


@dataclass(frozen=True)
class Request:
    """One training job wanted: its purpose names it, and its measures in the stage."""

    purpose: str
    spec: TrainingSpec


def training_job_name(job_name: str, purpose: str) -> str:
    """Name of the training job for one purpose of an alignment job."""
    project = job_name.partition("/alignmentJobs/")[0]
    return f"{project}/trainingJobs/{job_id_of(job_name)}-{purpose}"


def hyperparameters(
    work: Work, given: training_service_pb2.Hyperparameters, *, purpose: str
) -> training_service_pb2.Hyperparameters:
    """The hyperparameters with a seed drawn from the job's where none was given."""
    filled = training_service_pb2.Hyperparameters()
    filled.CopyFrom(given)
    filled.seed = given.seed or record_seed(work.plan.seed, stage="training", record_id=purpose) % 2**31
    return filled


class Trainer:
    """Runs training jobs for alignment jobs."""

    def __init__(self, patience: Patience, report: Report) -> None:
        self._patience, self._report = patience, report

    async def run(self, work: Work, requests: Sequence[Request], *, stage: str) -> dict[str, str]:
        """Trains, side by side as far as the service allows; returns the model of each purpose.

        Raises FailedPrecondition (`TRAINING_FAILED`, `TRAINING_CANCELLED`) when a job ends otherwise; the other jobs
        are cancelled then.
        """
        seen: dict[str, TrainingJob] = {}
        try:
            async with asyncio.TaskGroup() as group:
                tasks = {
                    request.purpose: group.create_task(self._one(work, request, seen=seen, stage=stage))
                    for request in requests
                }
        except* OmnialignError as failures:
            await self.cancel(work, [request.purpose for request in requests])
            raise _first(failures) from None
        return {purpose: task.result() for purpose, task in tasks.items()}

    async def cancel(self, work: Work, purposes: Sequence[str] = PURPOSES) -> None:
        """Cancels the training jobs of an alignment job, those that were never made excepted."""

        async def cancel(purpose: str) -> None:
            try:
                await work.peers.training.cancel_training_job(training_job_name(work.name, purpose))
            except NotFound:
                return

        await asyncio.gather(
            *(
                self._patience.call(lambda p=purpose: cancel(p), uid=work.uid, service="training")  # type: ignore[misc]
                for purpose in purposes
            )
        )

    async def _one(self, work: Work, request: Request, *, seen: dict[str, TrainingJob], stage: str) -> str:
        name = await self._create(work, request)
        await self._report(stage, _adds(stage, name))
        job = await self._follow(work, name, request=request, seen=seen, stage=stage)
        if job.state == TrainingJob.STATE_SUCCEEDED:
            return str(job.model)
        raise _not_succeeded(job)

    async def _create(self, work: Work, request: Request) -> str:
        async def create() -> str:
            training_job_id = f"{job_id_of(work.name)}-{request.purpose}"
            once = request_id(work.uid, f"train/{request.purpose}")
            job = await work.peers.training.create_training_job(training_job_id, request.spec, request_id=once)
            return str(job.name)

        try:
            return await self._patience.call(create, uid=work.uid, service="training")
        except AlreadyExists as error:
            name = training_job_name(work.name, request.purpose)
            message = f"the training job '{name}' exists and is not of this alignment job; choose another job id"
            raise FailedPrecondition(message, reason="TRAINING_JOB_TAKEN", metadata={"name": name}) from error

    async def _follow(
        self, work: Work, name: str, *, request: Request, seen: dict[str, TrainingJob], stage: str
    ) -> TrainingJob:
        last = 0
        wait = self._patience.wait(work.uid, "training")
        while True:
            try:
                async for event in work.peers.training.watch_training_job(name, resume_after=last):
                    last = event.sequence
                    await wait.progressed()
                    seen[request.purpose] = event.training_job
                    await self._report(stage, _shows(stage, seen))
                    if event.training_job.state in ENDED:
                        return event.training_job
                job = await work.peers.training.get_training_job(name)
                if job.state in ENDED:
                    return job
            except (OmnialignError, TimeoutError, ConnectionError) as error:
                await wait.after(error)


def _adds(stage: str, name: str) -> Callable[[Job], str | None]:
    def change(job: Job) -> str | None:
        status = stage_of(job, stage)
        if name in status.training_jobs:
            return None
        status.training_jobs.append(name)
        return f"Training job {name.rpartition('/')[2]} created."

    return change


def _shows(stage: str, seen: dict[str, TrainingJob]) -> Callable[[Job], str | None]:
    """Puts the progress of all training jobs of a stage into its status."""

    def change(job: Job) -> str | None:
        status = stage_of(job, stage)
        progress = {purpose: seen[purpose].progress for purpose in sorted(seen)}
        status.completed = sum(p.completed_steps for p in progress.values())
        status.total = sum(p.total_steps for p in progress.values())
        status.tokens = sum(p.tokens for p in progress.values())
        for purpose, p in progress.items():
            for measure, value in p.metrics.items():
                status.metrics[measure if len(seen) == 1 and stage == "optimize" else f"{purpose}/{measure}"] = value
        return " ".join([f"{stage}: step {status.completed} of {status.total}.", *_held_up(seen)])

    return change


def _held_up(seen: dict[str, TrainingJob]) -> list[str]:
    """A sentence for each training job that something holds up, such as a cluster without room."""
    held = {purpose: seen[purpose].condition for purpose in sorted(seen) if seen[purpose].HasField("condition")}
    return [f"{purpose} waits: {c.message.rstrip('.')} [{c.reason}]." for purpose, c in held.items() if c.reason]


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
