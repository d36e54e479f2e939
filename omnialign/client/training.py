"""Calls of the TrainingService."""

import asyncio
import uuid
from collections.abc import AsyncIterator
from pathlib import Path

from omnialign.client.base import RECONNECT_SECONDS, Calls
from omnialign.client.files import read_chunks
from omnialign.client.transport import Transport
from omnialign.errors import InvalidArgument
from omnialign.folders import file_entry, list_files
from omnialign.v1 import training_service_pb2, training_service_pb2_grpc

ENDED_TRAINING_STATES = frozenset(
    {
        training_service_pb2.TrainingJob.STATE_SUCCEEDED,
        training_service_pb2.TrainingJob.STATE_FAILED,
        training_service_pb2.TrainingJob.STATE_CANCELLED,
    }
)


class TrainingCalls(Calls):
    """Training jobs."""

    def __init__(self, transport: Transport, *, project: str) -> None:
        super().__init__(transport, project=project)
        self._training = training_service_pb2_grpc.TrainingServiceStub(transport.channel)

    async def create_training_job(
        self, job_id: str, spec: training_service_pb2.TrainingSpec, *, request_id: str = ""
    ) -> training_service_pb2.TrainingJob:
        """Queues a training job; an empty `job_id` lets the service choose one."""
        request = training_service_pb2.CreateTrainingJobRequest(
            parent=self.parent,
            training_job_id=job_id,
            training_job=training_service_pb2.TrainingJob(spec=spec),
            request_id=request_id or str(uuid.uuid4()),
        )
        return await self._transport.unary(self._training.CreateTrainingJob, request)

    async def get_training_job(self, name: str) -> training_service_pb2.TrainingJob:
        """Reads one job. Raises NotFound."""
        request = training_service_pb2.GetTrainingJobRequest(name=name)
        return await self._transport.unary(self._training.GetTrainingJob, request)

    def list_training_jobs(self) -> AsyncIterator[training_service_pb2.TrainingJob]:
        """All training jobs of the project, newest first."""
        request = training_service_pb2.ListTrainingJobsRequest(parent=self.parent)
        return self._pages(self._training.ListTrainingJobs, request, items="training_jobs")

    async def cancel_training_job(self, name: str) -> training_service_pb2.TrainingJob:
        """Asks a job to stop; one that has ended stays as it is."""
        request = training_service_pb2.CancelTrainingJobRequest(name=name)
        return await self._transport.unary(self._training.CancelTrainingJob, request)

    def watch_training_job(
        self, name: str, *, resume_after: int = 0, reconnect_seconds: float = RECONNECT_SECONDS
    ) -> AsyncIterator[training_service_pb2.WatchTrainingJobResponse]:
        """The events of a job until it ends; survives restarts of the service of up to `reconnect_seconds`."""
        return self._watch(
            self._training.WatchTrainingJob,
            training_service_pb2.WatchTrainingJobRequest(name=name, resume_after=resume_after),
            ended=lambda event: event.training_job.state in ENDED_TRAINING_STATES,
            reconnect_seconds=reconnect_seconds,
        )

    async def report_progress(
        self, name: str, progress: training_service_pb2.TrainingProgress
    ) -> training_service_pb2.ReportProgressResponse:
        """Tells the service how far a job is; for the job itself, whose token the client must have."""
        request = training_service_pb2.ReportProgressRequest(name=name, progress=progress)
        return await self._transport.unary(self._training.ReportProgress, request)

    async def deliver_model(
        self, name: str, folder: Path | str, *, attempt: int, deadline_seconds: float | None = None
    ) -> str:
        """Hands over the model that a job trained and returns its registered name; for the job itself.

        Safe to repeat. No deadline unless given. Raises InvalidArgument SOURCE_EMPTY for a folder without files, and
        FailedPrecondition JOB_NOT_RUNNING or ATTEMPT_OUTDATED when the job wants no model any more.
        """
        root = Path(folder)
        paths = await asyncio.to_thread(list_files, root)
        if not paths:
            raise InvalidArgument(f"{root} holds no files", reason="SOURCE_EMPTY", metadata={"folder": str(root)})
        entries = [await asyncio.to_thread(file_entry, path, folder=root) for path in paths]
        message = training_service_pb2.DeliverModelRequest

        async def messages() -> AsyncIterator[training_service_pb2.DeliverModelRequest]:
            yield message(header=training_service_pb2.DeliverModelHeader(name=name, attempt=attempt))
            for path, entry in zip(paths, entries, strict=True):
                file = training_service_pb2.DeliverModelFile(
                    path=entry.path, size_bytes=entry.size_bytes, sha256=entry.sha256
                )
                yield message(file=file)
                async for chunk in read_chunks(path):
                    yield message(chunk=chunk)

        response: training_service_pb2.DeliverModelResponse = await self._transport.upload(
            self._training.DeliverModel, messages, deadline_seconds=deadline_seconds
        )
        return response.model
