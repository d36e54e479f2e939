"""The AlignmentService over gRPC: translates, and decides nothing."""

from collections.abc import AsyncIterator
from typing import Any

from omnialign.v1 import alignment_service_pb2, alignment_service_pb2_grpc
from services.alignment.jobs import Jobs
from services.alignment.store import Event, Job


class AlignmentServicer(alignment_service_pb2_grpc.AlignmentServiceServicer):
    """Errors become statuses in the interceptor; requests are validated before they come here."""

    def __init__(self, jobs: Jobs) -> None:
        self._jobs = jobs

    async def CreateAlignmentJob(  # noqa: N802
        self, request: alignment_service_pb2.CreateAlignmentJobRequest, context: Any
    ) -> Job:
        """Submits or checks a job."""
        return await self._jobs.create(request)

    async def GetAlignmentJob(  # noqa: N802
        self, request: alignment_service_pb2.GetAlignmentJobRequest, context: Any
    ) -> Job:
        """Reads a job."""
        return await self._jobs.get(request.name)

    async def ListAlignmentJobs(  # noqa: N802
        self, request: alignment_service_pb2.ListAlignmentJobsRequest, context: Any
    ) -> alignment_service_pb2.ListAlignmentJobsResponse:
        """Lists jobs."""
        return await self._jobs.page(request)

    async def PauseAlignmentJob(  # noqa: N802
        self, request: alignment_service_pb2.PauseAlignmentJobRequest, context: Any
    ) -> Job:
        """Pauses a job."""
        return await self._jobs.pause(request.name)

    async def ResumeAlignmentJob(  # noqa: N802
        self, request: alignment_service_pb2.ResumeAlignmentJobRequest, context: Any
    ) -> Job:
        """Resumes a job."""
        return await self._jobs.resume(request.name)

    async def CancelAlignmentJob(  # noqa: N802
        self, request: alignment_service_pb2.CancelAlignmentJobRequest, context: Any
    ) -> Job:
        """Cancels a job."""
        return await self._jobs.cancel(request.name)

    async def WatchAlignmentJob(  # noqa: N802
        self, request: alignment_service_pb2.WatchAlignmentJobRequest, context: Any
    ) -> AsyncIterator[Event]:
        """Streams events."""
        async for event in self._jobs.watch(request.name, resume_after=request.resume_after):
            yield event

    async def GetAlignmentReport(  # noqa: N802
        self, request: alignment_service_pb2.GetAlignmentReportRequest, context: Any
    ) -> AsyncIterator[alignment_service_pb2.GetAlignmentReportResponse]:
        """Streams a report."""
        async for piece in self._jobs.report(request.name, report_format=request.format):
            yield alignment_service_pb2.GetAlignmentReportResponse(chunk=piece)
