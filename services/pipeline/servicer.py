"""The calls that every job kind has, over gRPC: translates, and decides nothing.

A kind's servicer says under which names it has them, and adds its own:

    class CensusServicer(JobServicer, census_service_pb2_grpc.CensusServiceServicer):
        list_response, list_field = census_service_pb2.ListCensusesResponse, "censuses"
        report_response = census_service_pb2.GetCensusReportResponse
        GetCensus = JobServicer.get
"""

from collections.abc import AsyncIterator
from typing import Any, ClassVar

from google.protobuf import empty_pb2

from services.pipeline.kind import Job
from services.pipeline.service import Pipeline

FORMAT = "FORMAT_"
DEFAULT_FORMAT = "json"


class JobServicer:
    """Errors become statuses in the interceptor; requests are validated before they get here."""

    list_response: ClassVar[Any]
    """The message of a page of jobs."""
    list_field: ClassVar[str]
    """Its field that holds the jobs."""
    report_response: ClassVar[Any]
    """The message of a piece of a report."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline, self._jobs = pipeline, pipeline.jobs

    async def get(self, request: Any, context: Any) -> Job:
        """Reads a job."""
        return await self._jobs.get(request.name)

    async def list_page(self, request: Any, context: Any) -> Any:
        """Lists jobs."""
        jobs, token = await self._jobs.page(request)
        return self.list_response(next_page_token=token, **{self.list_field: jobs})

    async def pause(self, request: Any, context: Any) -> Job:
        """Pauses a job."""
        return await self._jobs.pause(request.name)

    async def resume(self, request: Any, context: Any) -> Job:
        """Resumes a job."""
        return await self._jobs.resume(request.name)

    async def cancel(self, request: Any, context: Any) -> Job:
        """Cancels a job."""
        return await self._jobs.cancel(request.name)

    async def delete(self, request: Any, context: Any) -> empty_pb2.Empty:
        """Deletes a job that has ended."""
        await self._jobs.delete(request.name)
        return empty_pb2.Empty()

    async def watch(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Streams events."""
        async for event in self._jobs.watch(request.name, resume_after=request.resume_after):
            yield event

    async def report(self, request: Any, context: Any) -> AsyncIterator[Any]:
        """Streams a report."""
        async for piece in self._jobs.report(request.name, report_format=format_of(request)):
            yield self.report_response(chunk=piece)


def format_of(request: Any) -> str:
    """The format of the report that a request asks for; JSON if it does not say."""
    value = request.DESCRIPTOR.fields_by_name["format"].enum_type.values_by_number[request.format]
    return str(value.name).removeprefix(FORMAT).lower() if value.number else DEFAULT_FORMAT
