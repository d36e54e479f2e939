"""Calls of the TrainingService and the AlignmentService: jobs, and watches that survive restarts of their service."""

import asyncio
import uuid
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any, cast

from omnialign.client.transport import ServiceCalls, Transport
from omnialign.client.uploads import file_messages
from omnialign.errors import InvalidArgument, OmnialignError, Unavailable
from omnialign.folders import list_files
from omnialign.retry import RetryPolicy
from omnialign.v1 import (
    alignment_service_pb2,
    alignment_service_pb2_grpc,
    content_pb2,
    training_service_pb2,
    training_service_pb2_grpc,
)

RECONNECT_SECONDS = 120.0
"""How long a watch tries to reconnect: enough for a pod to be moved to another node."""
RECONNECT = RetryPolicy(base_seconds=0.1, cap_seconds=1.0, jitter=0.3, budget_seconds=RECONNECT_SECONDS)
PREFLIGHT_DEADLINE_SECONDS = 300.0
REPORT_DEADLINE_SECONDS = 300.0
ENDED_TRAINING_STATES = frozenset(
    {
        training_service_pb2.TrainingJob.STATE_SUCCEEDED,
        training_service_pb2.TrainingJob.STATE_FAILED,
        training_service_pb2.TrainingJob.STATE_CANCELLED,
    }
)
ENDED_ALIGNMENT_STATES = frozenset(
    {
        alignment_service_pb2.AlignmentJob.STATE_SUCCEEDED,
        alignment_service_pb2.AlignmentJob.STATE_FAILED,
        alignment_service_pb2.AlignmentJob.STATE_CANCELLED,
    }
)


class JobCalls(ServiceCalls):
    """What calls about jobs of any kind share: the watch and the report."""

    async def _watch(
        self,
        method: Callable[..., Any],
        request: Any,
        *,
        ended: Callable[[Any], bool],
        reconnect_seconds: float = RECONNECT_SECONDS,
    ) -> AsyncIterator[Any]:
        """Yields the events after number `request.resume_after`, up to the first for which `ended` is true.

        A stream that breaks or ends early is reopened after the last event seen, so that none is lost or repeated.
        Raises Unavailable if no event arrives within `reconnect_seconds` of the break.
        """
        retries = RetryPolicy(base_seconds=0.1, cap_seconds=1.0, jitter=0.3, budget_seconds=reconnect_seconds).start()
        while True:
            failure: OmnialignError | None = None
            opened_after = request.resume_after
            try:
                # The transport must not retry: this loop does, and it alone knows where to resume.
                async for event in self._transport.stream(method, request, idempotent=False):
                    request.resume_after = event.sequence
                    yield event
                    if ended(event):
                        return
                    retries.reset()
            except Unavailable as error:
                failure = error
            # A stream that ends in peace without one event has none left: the job had ended before `resume_after`.
            # One that brought events and ended early belongs to a replica that is shutting down.
            if failure is None and request.resume_after == opened_after:
                return
            pause_seconds = retries.next_pause_seconds()
            if pause_seconds is None:
                raise failure or Unavailable(
                    f"The service kept ending the watch of '{request.name}'; look at its log, then watch again.",
                    reason="WATCH_ENDED",
                )
            await asyncio.sleep(pause_seconds)

    async def _report(self, method: Callable[..., Any], request: Any) -> bytes:
        """The report that a method streams in chunks."""
        chunks: list[bytes] = []
        async for message in self._transport.stream(
            method, request, deadline_seconds=REPORT_DEADLINE_SECONDS, on_restart=chunks.clear
        ):
            chunks.append(message.chunk)
        return b"".join(chunks)


class TrainingCalls(JobCalls):
    """Training jobs."""

    def __init__(self, transport: Transport, *, project: str) -> None:
        super().__init__(transport, project=project)
        self._training = training_service_pb2_grpc.TrainingServiceStub(transport.channel)

    async def create_training_job(
        self,
        job_id: str,
        spec: training_service_pb2.TrainingSpec,
        *,
        request_id: str = "",
        validate_only: bool = False,
    ) -> training_service_pb2.TrainingJob:
        """Queues a training job. If `job_id` is empty, the service chooses one.

        With `validate_only`, returns what the job would be, with an estimate of its memory, and creates nothing.

        Calls with the same `request_id` create one job; without one, the retries of a call still do.
        """
        request = training_service_pb2.CreateTrainingJobRequest(
            parent=self.parent,
            training_job_id=job_id,
            training_job=training_service_pb2.TrainingJob(spec=spec),
            request_id=request_id or str(uuid.uuid4()),
            validate_only=validate_only,
        )
        return await self._transport.unary(self._training.CreateTrainingJob, request)

    async def get_training_job(self, name: str) -> training_service_pb2.TrainingJob:
        """Returns one job. Raises NotFound."""
        request = training_service_pb2.GetTrainingJobRequest(name=name)
        return await self._transport.unary(self._training.GetTrainingJob, request)

    def list_training_jobs(self) -> AsyncIterator[training_service_pb2.TrainingJob]:
        """All training jobs of the project, newest first."""
        request = training_service_pb2.ListTrainingJobsRequest(parent=self.parent)
        return self._pages(self._training.ListTrainingJobs, request, items="training_jobs")

    async def cancel_training_job(self, name: str) -> training_service_pb2.TrainingJob:
        """Asks a job to stop. A job that has ended stays as it is."""
        request = training_service_pb2.CancelTrainingJobRequest(name=name)
        return await self._transport.unary(self._training.CancelTrainingJob, request)

    def watch_training_job(
        self, name: str, *, resume_after: int = 0, reconnect_seconds: float = RECONNECT_SECONDS
    ) -> AsyncIterator[training_service_pb2.WatchTrainingJobResponse]:
        """Yields the events of a job until it ends; survives restarts of the service of up to `reconnect_seconds`."""
        return self._watch(
            self._training.WatchTrainingJob,
            training_service_pb2.WatchTrainingJobRequest(name=name, resume_after=resume_after),
            ended=lambda event: event.training_job.state in ENDED_TRAINING_STATES,
            reconnect_seconds=reconnect_seconds,
        )

    async def training_log(self, name: str, *, tail_lines: int = 0, follow: bool = False) -> AsyncIterator[str]:
        """The lines that a job printed, of those so far only the last `tail_lines` (0 means all that is kept).

        With `follow`, goes on until the job has ended, and survives restarts of the service. Raises NotFound.
        """
        request = training_service_pb2.StreamTrainingLogRequest(name=name, tail_lines=tail_lines, follow=follow)
        retries = RECONNECT.start()
        while True:
            try:
                async for part in self._transport.stream(self._training.StreamTrainingLog, request, idempotent=False):
                    request.resume_after, request.tail_lines = part.position, 0
                    retries.reset()
                    for line in part.lines:
                        yield line
            except Unavailable:
                pause_seconds = retries.next_pause_seconds()
                if pause_seconds is None:
                    raise
                await asyncio.sleep(pause_seconds)
            else:
                if not follow or (await self.get_training_job(name)).state in ENDED_TRAINING_STATES:
                    return

    async def report_progress(
        self, name: str, progress: training_service_pb2.TrainingProgress
    ) -> training_service_pb2.ReportProgressResponse:
        """Reports the progress of a job. Only the job itself may: the client must hold its token."""
        request = training_service_pb2.ReportProgressRequest(name=name, progress=progress)
        return await self._transport.unary(self._training.ReportProgress, request)

    async def deliver_model(
        self, name: str, folder: Path | str, *, attempt: int, deadline_seconds: float | None = None
    ) -> str:
        """Delivers the model that a job trained, and returns its registered name. Only the job itself may.

        Safe to repeat. No deadline unless given. Raises InvalidArgument SOURCE_EMPTY for a folder without files, and
        FailedPrecondition JOB_NOT_RUNNING or ATTEMPT_OUTDATED if the job no longer wants a model.
        """
        root = Path(folder)
        paths = await asyncio.to_thread(list_files, root)
        if not paths:
            raise InvalidArgument(
                f"{root} holds no files; name the folder that the training wrote.",
                reason="SOURCE_EMPTY",
                metadata={"folder": str(root)},
            )
        message = training_service_pb2.DeliverModelRequest

        async def messages() -> AsyncIterator[training_service_pb2.DeliverModelRequest]:
            yield message(header=training_service_pb2.DeliverModelHeader(name=name, attempt=attempt))
            async for part in file_messages(message, training_service_pb2.DeliverModelFile, paths, folder=root):
                yield part

        response: training_service_pb2.DeliverModelResponse = await self._transport.upload(
            self._training.DeliverModel, messages, deadline_seconds=deadline_seconds
        )
        return response.model


class AlignmentCalls(JobCalls):
    """Alignment jobs and their reports."""

    def __init__(self, transport: Transport, *, project: str) -> None:
        super().__init__(transport, project=project)
        self._alignment = alignment_service_pb2_grpc.AlignmentServiceStub(transport.channel)

    async def create_alignment_job(
        self,
        job_id: str,
        spec: alignment_service_pb2.AlignmentSpec,
        *,
        request_id: str = "",
        validate_only: bool = False,
    ) -> alignment_service_pb2.AlignmentJob:
        """Submits a job. If `job_id` is empty, the service chooses one.

        `validate_only` checks the job and creates nothing. The check reads the whole dataset, which may take minutes;
        its deadline is five. Calls with the same `request_id` create one job.
        """
        request = alignment_service_pb2.CreateAlignmentJobRequest(
            parent=self.parent,
            alignment_job_id=job_id,
            alignment_job=alignment_service_pb2.AlignmentJob(spec=spec),
            request_id=request_id or str(uuid.uuid4()),
            validate_only=validate_only,
        )
        deadline_seconds = PREFLIGHT_DEADLINE_SECONDS if validate_only else None
        return await self._transport.unary(
            self._alignment.CreateAlignmentJob, request, deadline_seconds=deadline_seconds
        )

    async def get_alignment_job(self, name: str) -> alignment_service_pb2.AlignmentJob:
        """Returns one job. Raises NotFound."""
        request = alignment_service_pb2.GetAlignmentJobRequest(name=name)
        return await self._transport.unary(self._alignment.GetAlignmentJob, request)

    def list_alignment_jobs(self) -> AsyncIterator[alignment_service_pb2.AlignmentJob]:
        """All alignment jobs of the project, newest first."""
        request = alignment_service_pb2.ListAlignmentJobsRequest(parent=self.parent)
        return self._pages(self._alignment.ListAlignmentJobs, request, items="alignment_jobs")

    async def pause_alignment_job(self, name: str) -> alignment_service_pb2.AlignmentJob:
        """Stops a job from starting new work. Raises FailedPrecondition if it is not running."""
        request = alignment_service_pb2.PauseAlignmentJobRequest(name=name)
        return await self._transport.unary(self._alignment.PauseAlignmentJob, request)

    async def resume_alignment_job(self, name: str) -> alignment_service_pb2.AlignmentJob:
        """Continues a paused job. Raises FailedPrecondition if it is not paused."""
        request = alignment_service_pb2.ResumeAlignmentJobRequest(name=name)
        return await self._transport.unary(self._alignment.ResumeAlignmentJob, request)

    async def cancel_alignment_job(self, name: str) -> alignment_service_pb2.AlignmentJob:
        """Ends a job and its training jobs. A job that has ended stays as it is."""
        request = alignment_service_pb2.CancelAlignmentJobRequest(name=name)
        return await self._transport.unary(self._alignment.CancelAlignmentJob, request)

    async def delete_alignment_job(self, name: str) -> None:
        """Deletes a job that has ended; what it made stays. Raises NotFound, and FailedPrecondition JOB_STATE."""
        request = alignment_service_pb2.DeleteAlignmentJobRequest(name=name)
        # A second attempt, after a first that succeeded unseen, would raise NotFound.
        await self._transport.unary(self._alignment.DeleteAlignmentJob, request, idempotent=False)

    def watch_alignment_job(
        self, name: str, *, resume_after: int = 0, reconnect_seconds: float = RECONNECT_SECONDS
    ) -> AsyncIterator[alignment_service_pb2.WatchAlignmentJobResponse]:
        """Yields the events of a job until it ends; survives restarts of the service of up to `reconnect_seconds`."""
        return self._watch(
            self._alignment.WatchAlignmentJob,
            alignment_service_pb2.WatchAlignmentJobRequest(name=name, resume_after=resume_after),
            ended=lambda event: event.alignment_job.state in ENDED_ALIGNMENT_STATES,
            reconnect_seconds=reconnect_seconds,
        )

    async def get_alignment_report(self, name: str, format: int = 0) -> bytes:  # noqa: A002  the contract's word
        """The report of a job that succeeded; `format` is a `GetAlignmentReportRequest.Format`, 0 means JSON."""
        request = alignment_service_pb2.GetAlignmentReportRequest(
            name=name, format=cast("alignment_service_pb2.GetAlignmentReportRequest.Format.ValueType", format)
        )
        return await self._report(self._alignment.GetAlignmentReport, request)

    def list_pair_reviews(
        self, name: str, *, pending_only: bool = False
    ) -> AsyncIterator[alignment_service_pb2.PairReview]:
        """The pairs of a job that people review, by round and record."""
        request = alignment_service_pb2.ListPairReviewsRequest(parent=name, pending_only=pending_only)
        return self._pages(self._alignment.ListPairReviews, request, items="reviews")

    async def review_pair(
        self,
        name: str,
        record_id: str,
        decision: int,
        *,
        reason: str = "",
        refinement: content_pb2.Content | None = None,
        number: int = 1,
    ) -> alignment_service_pb2.PairReview:
        """Decides on a pair of round `number`; `decision` is a `PairReview.Decision`.

        Raises NotFound REVIEW_NOT_FOUND, FailedPrecondition REVIEW_CLOSED, and InvalidArgument for an edit without a
        `refinement`.
        """
        request = alignment_service_pb2.ReviewPairRequest(
            name=name,
            round=number,
            record_id=record_id,
            decision=cast("alignment_service_pb2.PairReview.Decision.ValueType", decision),
            reason=reason,
            refinement=refinement,
        )
        response: alignment_service_pb2.ReviewPairResponse = await self._transport.unary(
            self._alignment.ReviewPair, request
        )
        return response.review
