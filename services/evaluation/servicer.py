"""The EvaluationService over gRPC: translates, and decides nothing."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.protobuf import empty_pb2

from omnialign import names
from omnialign.v1 import evaluation_service_pb2, evaluation_service_pb2_grpc
from services.evaluation.comparing import read_compared
from services.evaluation.job import Job
from services.evaluation.report import make_comparison_report
from services.evaluation.submission import create_evaluation
from services.pipeline.service import Pipeline

Event = evaluation_service_pb2.WatchEvaluationResponse
Format = evaluation_service_pb2.GetEvaluationReportRequest.Format
REPORT_FORMATS: dict[int, str] = {Format.FORMAT_HTML: "html"}
"""Formats of a report other than JSON, which is the default."""


PIECE_BYTES = 256 * 1024


class EvaluationServicer(evaluation_service_pb2_grpc.EvaluationServiceServicer):
    """Errors become statuses in the interceptor; requests are validated before they get here."""

    def __init__(self, pipeline: Pipeline) -> None:
        self._pipeline, self._jobs = pipeline, pipeline.jobs

    async def CreateEvaluation(  # noqa: N802
        self, request: evaluation_service_pb2.CreateEvaluationRequest, context: Any
    ) -> Job:
        """Submits or checks an evaluation."""
        return await create_evaluation(self._pipeline, request)

    async def GetEvaluation(  # noqa: N802
        self, request: evaluation_service_pb2.GetEvaluationRequest, context: Any
    ) -> Job:
        """Reads an evaluation."""
        return await self._jobs.get(request.name)  # type: ignore[no-any-return]  # the pipeline knows no kind

    async def ListEvaluations(  # noqa: N802
        self, request: evaluation_service_pb2.ListEvaluationsRequest, context: Any
    ) -> evaluation_service_pb2.ListEvaluationsResponse:
        """Lists evaluations."""
        jobs, token = await self._jobs.page(request)
        return evaluation_service_pb2.ListEvaluationsResponse(evaluations=jobs, next_page_token=token)

    async def PauseEvaluation(  # noqa: N802
        self, request: evaluation_service_pb2.PauseEvaluationRequest, context: Any
    ) -> Job:
        """Pauses an evaluation."""
        return await self._jobs.pause(request.name)  # type: ignore[no-any-return]  # the pipeline knows no kind

    async def ResumeEvaluation(  # noqa: N802
        self, request: evaluation_service_pb2.ResumeEvaluationRequest, context: Any
    ) -> Job:
        """Resumes an evaluation."""
        return await self._jobs.resume(request.name)  # type: ignore[no-any-return]  # the pipeline knows no kind

    async def CancelEvaluation(  # noqa: N802
        self, request: evaluation_service_pb2.CancelEvaluationRequest, context: Any
    ) -> Job:
        """Cancels an evaluation."""
        return await self._jobs.cancel(request.name)  # type: ignore[no-any-return]  # the pipeline knows no kind

    async def DeleteEvaluation(  # noqa: N802
        self, request: evaluation_service_pb2.DeleteEvaluationRequest, context: Any
    ) -> empty_pb2.Empty:
        """Deletes an evaluation that has ended."""
        await self._jobs.delete(request.name)
        return empty_pb2.Empty()

    async def WatchEvaluation(  # noqa: N802
        self, request: evaluation_service_pb2.WatchEvaluationRequest, context: Any
    ) -> AsyncIterator[Event]:
        """Streams events."""
        async for event in self._jobs.watch(request.name, resume_after=request.resume_after):
            yield event

    async def GetEvaluationReport(  # noqa: N802
        self, request: evaluation_service_pb2.GetEvaluationReportRequest, context: Any
    ) -> AsyncIterator[evaluation_service_pb2.GetEvaluationReportResponse]:
        """Streams a report."""
        report_format = REPORT_FORMATS.get(request.format, "json")
        async for piece in self._jobs.report(request.name, report_format=report_format):
            yield evaluation_service_pb2.GetEvaluationReportResponse(chunk=piece)

    async def CompareEvaluations(  # noqa: N802
        self, request: evaluation_service_pb2.CompareEvaluationsRequest, context: Any
    ) -> evaluation_service_pb2.CompareEvaluationsResponse:
        """Compares two models."""
        compared = await read_compared(self._pipeline, request)
        return await asyncio.to_thread(compared.response)

    async def GetComparisonReport(  # noqa: N802
        self, request: evaluation_service_pb2.GetComparisonReportRequest, context: Any
    ) -> AsyncIterator[evaluation_service_pb2.GetComparisonReportResponse]:
        """Streams the report of a comparison."""
        compared = await read_compared(self._pipeline, request.comparison)
        clients = await self._pipeline.clients.of(names.project_of(request.comparison.name))
        report_format = REPORT_FORMATS.get(request.format, "json")
        report = await make_comparison_report(compared, report_format=report_format, data=clients.data)
        for start in range(0, len(report), PIECE_BYTES):
            yield evaluation_service_pb2.GetComparisonReportResponse(chunk=report[start : start + PIECE_BYTES])
