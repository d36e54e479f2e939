"""Calls of the AlignmentService."""

import uuid
from collections.abc import AsyncIterator
from typing import cast

from omnialign.client.base import RECONNECT_SECONDS, Calls
from omnialign.client.transport import Transport
from omnialign.v1 import alignment_service_pb2, alignment_service_pb2_grpc

ENDED_ALIGNMENT_STATES = frozenset(
    {
        alignment_service_pb2.AlignmentJob.STATE_SUCCEEDED,
        alignment_service_pb2.AlignmentJob.STATE_FAILED,
        alignment_service_pb2.AlignmentJob.STATE_CANCELLED,
    }
)
PREFLIGHT_DEADLINE_SECONDS = 300.0


class AlignmentCalls(Calls):
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
        """Submits a job; an empty `job_id` lets the service choose one. `validate_only` checks it and creates nothing.

        A check reads the whole dataset and may take minutes; its deadline is five.
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
        """Reads one job. Raises NotFound."""
        request = alignment_service_pb2.GetAlignmentJobRequest(name=name)
        return await self._transport.unary(self._alignment.GetAlignmentJob, request)

    def list_alignment_jobs(self) -> AsyncIterator[alignment_service_pb2.AlignmentJob]:
        """All alignment jobs of the project, newest first."""
        request = alignment_service_pb2.ListAlignmentJobsRequest(parent=self.parent)
        return self._pages(self._alignment.ListAlignmentJobs, request, items="alignment_jobs")

    async def pause_alignment_job(self, name: str) -> alignment_service_pb2.AlignmentJob:
        """Stops taking up new work. Raises FailedPrecondition when the job is not running."""
        request = alignment_service_pb2.PauseAlignmentJobRequest(name=name)
        return await self._transport.unary(self._alignment.PauseAlignmentJob, request)

    async def resume_alignment_job(self, name: str) -> alignment_service_pb2.AlignmentJob:
        """Goes on with a paused job. Raises FailedPrecondition when it is not paused."""
        request = alignment_service_pb2.ResumeAlignmentJobRequest(name=name)
        return await self._transport.unary(self._alignment.ResumeAlignmentJob, request)

    async def cancel_alignment_job(self, name: str) -> alignment_service_pb2.AlignmentJob:
        """Ends a job and its training jobs; one that has ended stays as it is."""
        request = alignment_service_pb2.CancelAlignmentJobRequest(name=name)
        return await self._transport.unary(self._alignment.CancelAlignmentJob, request)

    def watch_alignment_job(
        self, name: str, *, resume_after: int = 0, reconnect_seconds: float = RECONNECT_SECONDS
    ) -> AsyncIterator[alignment_service_pb2.WatchAlignmentJobResponse]:
        """The events of a job until it ends; survives restarts of the service of up to `reconnect_seconds`."""
        return self._watch(
            self._alignment.WatchAlignmentJob,
            alignment_service_pb2.WatchAlignmentJobRequest(name=name, resume_after=resume_after),
            ended=lambda event: event.alignment_job.state in ENDED_ALIGNMENT_STATES,
            reconnect_seconds=reconnect_seconds,
        )

    async def get_alignment_report(self, name: str, format: int = 0) -> bytes:  # noqa: A002  the contract's word
        """The report of a job that succeeded; `format` is a `GetAlignmentReportRequest.Format`, 0 is JSON."""
        request = alignment_service_pb2.GetAlignmentReportRequest(
            name=name, format=cast("alignment_service_pb2.GetAlignmentReportRequest.Format.ValueType", format)
        )
        stream = self._transport.stream(self._alignment.GetAlignmentReport, request, deadline_seconds=300.0)
        return b"".join([message.chunk async for message in stream])
