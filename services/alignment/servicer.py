"""The AlignmentService over gRPC: translates, and decides nothing."""

from typing import Any

from omnialign.v1 import alignment_service_pb2, alignment_service_pb2_grpc
from services.alignment.job import Job
from services.alignment.reviewing import Reviewing
from services.alignment.submission import create_job
from services.pipeline.service import Pipeline
from services.pipeline.servicer import JobServicer


class AlignmentServicer(JobServicer, alignment_service_pb2_grpc.AlignmentServiceServicer):
    """The calls of all kinds, under the names that the contract gives them, and those that only this one has."""

    list_response, list_field = alignment_service_pb2.ListAlignmentJobsResponse, "alignment_jobs"
    report_response = alignment_service_pb2.GetAlignmentReportResponse

    GetAlignmentJob = JobServicer.get
    ListAlignmentJobs = JobServicer.list_page
    PauseAlignmentJob = JobServicer.pause
    ResumeAlignmentJob = JobServicer.resume
    CancelAlignmentJob = JobServicer.cancel
    DeleteAlignmentJob = JobServicer.delete
    WatchAlignmentJob = JobServicer.watch
    GetAlignmentReport = JobServicer.report

    def __init__(self, pipeline: Pipeline) -> None:
        super().__init__(pipeline)
        self._reviewing = Reviewing(pipeline)

    async def CreateAlignmentJob(  # noqa: N802
        self, request: alignment_service_pb2.CreateAlignmentJobRequest, context: Any
    ) -> Job:
        """Submits or checks a job."""
        return await create_job(self._pipeline, request)

    async def ListPairReviews(  # noqa: N802
        self, request: alignment_service_pb2.ListPairReviewsRequest, context: Any
    ) -> alignment_service_pb2.ListPairReviewsResponse:
        """Lists reviews."""
        reviews, token = await self._reviewing.page(request)
        return alignment_service_pb2.ListPairReviewsResponse(reviews=reviews, next_page_token=token)

    async def ReviewPair(  # noqa: N802
        self, request: alignment_service_pb2.ReviewPairRequest, context: Any
    ) -> alignment_service_pb2.ReviewPairResponse:
        """Decides on a pair."""
        return alignment_service_pb2.ReviewPairResponse(review=await self._reviewing.decide(request))
