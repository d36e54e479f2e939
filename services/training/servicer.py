"""Translates TrainingService calls; decides nothing."""

from collections.abc import AsyncIterator
from typing import Any

from omnialign.v1 import training_service_pb2 as pb
from omnialign.v1 import training_service_pb2_grpc
from services.runtime.context import bearer_token
from services.runtime.requests import decode_token, encode_token, page_size
from services.training.jobs import Deliveries, Jobs
from services.training.logs import Logs


class TrainingServicer(training_service_pb2_grpc.TrainingServiceServicer):
    """The service's RPCs."""

    def __init__(self, jobs: Jobs, deliveries: Deliveries, logs: Logs) -> None:
        self._jobs, self._deliveries, self._logs = jobs, deliveries, logs

    async def CreateTrainingJob(self, request: pb.CreateTrainingJobRequest, context: Any) -> pb.TrainingJob:  # noqa: N802
        """Queues a job."""
        return await self._jobs.create(request)

    async def GetTrainingJob(self, request: pb.GetTrainingJobRequest, context: Any) -> pb.TrainingJob:  # noqa: N802
        """Reads a job."""
        return await self._jobs.get(request.name)

    async def ListTrainingJobs(  # noqa: N802
        self, request: pb.ListTrainingJobsRequest, context: Any
    ) -> pb.ListTrainingJobsResponse:
        """Lists jobs, newest first."""
        size = page_size(request.page_size)
        after = decode_token(request.page_token, filter=request.parent, kinds=(int, str))
        found = await self._jobs.page(request.parent, after=after, limit=size + 1)
        shown = found[:size]
        token = ""
        if len(found) > size:
            last = shown[-1]
            token = encode_token([str(last.create_time.ToMicroseconds()), last.name], filter=request.parent)
        return pb.ListTrainingJobsResponse(training_jobs=shown, next_page_token=token)

    async def CancelTrainingJob(self, request: pb.CancelTrainingJobRequest, context: Any) -> pb.TrainingJob:  # noqa: N802
        """Asks a job to stop."""
        return await self._jobs.cancel(request.name)

    async def WatchTrainingJob(  # noqa: N802
        self, request: pb.WatchTrainingJobRequest, context: Any
    ) -> AsyncIterator[pb.WatchTrainingJobResponse]:
        """Streams a job's events."""
        async for event in self._jobs.watch(request.name, resume_after=request.resume_after):
            yield event

    async def StreamTrainingLog(  # noqa: N802
        self, request: pb.StreamTrainingLogRequest, context: Any
    ) -> AsyncIterator[pb.StreamTrainingLogResponse]:
        """Streams a job's log."""
        async for part in self._logs.read(request):
            yield part

    async def ReportProgress(self, request: pb.ReportProgressRequest, context: Any) -> pb.ReportProgressResponse:  # noqa: N802
        """Records a report of a running job."""
        stop = await self._jobs.report(request.name, request.progress, token=bearer_token())
        return pb.ReportProgressResponse(stop_requested=stop)

    async def DeliverModel(  # noqa: N802
        self, request_iterator: AsyncIterator[pb.DeliverModelRequest], context: Any
    ) -> pb.DeliverModelResponse:
        """Receives a trained model."""
        model = await self._deliveries.receive(request_iterator, token=bearer_token())
        return pb.DeliverModelResponse(model=model)
