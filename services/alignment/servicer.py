"""The AlignmentService over gRPC: translates, and decides nothing."""

from collections.abc import AsyncIterator
from typing import Any

from google.protobuf import empty_pb2

from omnialign.v1 import alignment_service_pb2, alignment_service_pb2_grpc
from services.alignment.job import Job
from services.alignment.submission import create_job
from services.pipeline.service import Pipeline

Event = alignment_service_pb2.WatchAlignmentJobResponse
Format = alignment_service_pb2.GetAlignmentReportRequest.Format
REPORT_FORMATS: dict[int, str] = {Format.FORMAT_HTML: "html"}
"""Formats of a report other than JSON, which is the default."""


class AlignmentServicer(alignment_service_pb2_grpc.AlignmentServiceServicer):
    """Errors become statuses in the interceptor; requests are validated before they get here."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline, self._jobs = pipeline, pipeline.jobs

    async def CreateAlignmentJob(  # noqa: N802
        self, request: alignment_service_pb2.CreateAlignmentJobRequest, context: Any
    ) -> Job:
        """Submits or checks a job."""
        return await create_job(self._pipeline, request)

    async def GetAlignmentJob(  # noqa: N802
        self, request: alignment_service_pb2.GetAlignmentJobRequest, context: Any
    ) -> Job:
        """Reads a job."""
        return await self._jobs.get(request.name)  # type: ignore[no-any-return]

    async def ListAlignmentJobs(  # noqa: N802
        self, request: alignment_service_pb2.ListAlignmentJobsRequest, context: Any
    ) -> alignment_service_pb2.ListAlignmentJobsResponse:
        """Lists jobs."""
        jobs, token = await self._jobs.page(request)
        return alignment_service_pb2.ListAlignmentJobsResponse(alignment_jobs=jobs, next_page_token=token)

    async def PauseAlignmentJob(  # noqa: N802
        self, request: alignment_service_pb2.PauseAlignmentJobRequest, context: Any
    ) -> Job:
        """Pauses a job."""
        return await self._jobs.pause(request.name)  # type: ignore[no-any-return]

    async def ResumeAlignmentJob(  # noqa: N802
        self, request: alignment_service_pb2.ResumeAlignmentJobRequest, context: Any
    ) -> Job:
        """Resumes a job."""
        return await self._jobs.resume(request.name)  # type: ignore[no-any-return]

    async def CancelAlignmentJob(  # noqa: N802
        self, request: alignment_service_pb2.CancelAlignmentJobRequest, context: Any
    ) -> Job:
        """Cancels a job."""
        return await self._jobs.cancel(request.name)  # type: ignore[no-any-return]

    async def DeleteAlignmentJob(  # noqa: N802
        self, request: alignment_service_pb2.DeleteAlignmentJobRequest, context: Any
    ) -> empty_pb2.Empty:
        """Deletes a job that has ended."""
        await self._jobs.delete(request.name)
        return empty_pb2.Empty()

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
        report_format = REPORT_FORMATS.get(request.format, "json")
        async for piece in self._jobs.report(request.name, report_format=report_format):
            yield alignment_service_pb2.GetAlignmentReportResponse(chunk=piece)
