"""The EvaluationService over gRPC: translates, and decides nothing."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from omnialign import names
from omnialign.v1 import evaluation_service_pb2, evaluation_service_pb2_grpc
from services.evaluation.comparing import read_compared
from services.evaluation.job import Job
from services.evaluation.report import make_comparison_report
from services.evaluation.submission import create_evaluation
from services.pipeline.servicer import JobServicer, format_of

PIECE_BYTES = 256 * 1024


class EvaluationServicer(JobServicer, evaluation_service_pb2_grpc.EvaluationServiceServicer):
    """The calls of all kinds, under the names that the contract gives them; the creation of an evaluation, and
    comparisons."""

    list_response, list_field = evaluation_service_pb2.ListEvaluationsResponse, "evaluations"
    report_response = evaluation_service_pb2.GetEvaluationReportResponse

    GetEvaluation = JobServicer.get
    ListEvaluations = JobServicer.list_page
    PauseEvaluation = JobServicer.pause
    ResumeEvaluation = JobServicer.resume
    CancelEvaluation = JobServicer.cancel
    DeleteEvaluation = JobServicer.delete
    WatchEvaluation = JobServicer.watch
    GetEvaluationReport = JobServicer.report

    async def CreateEvaluation(  # noqa: N802
        self, request: evaluation_service_pb2.CreateEvaluationRequest, context: Any
    ) -> Job:
        """Submits or checks an evaluation."""
        return await create_evaluation(self._pipeline, request)

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
        report = await make_comparison_report(compared, report_format=format_of(request), data=clients.data)
        for start in range(0, len(report), PIECE_BYTES):
            yield evaluation_service_pb2.GetComparisonReportResponse(chunk=report[start : start + PIECE_BYTES])
