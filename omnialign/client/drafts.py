"""Calls of the AnnotationService about draft jobs: models that annotate the pairs of a campaign."""

import uuid
from collections.abc import AsyncIterator

from omnialign.client.jobs import RECONNECT_SECONDS, JobCalls
from omnialign.client.transport import Transport
from omnialign.v1 import annotation_service_pb2, annotation_service_pb2_grpc

DraftJob = annotation_service_pb2.DraftJob

ENDED_DRAFT_STATES = frozenset({DraftJob.STATE_SUCCEEDED, DraftJob.STATE_FAILED, DraftJob.STATE_CANCELLED})


class DraftCalls(JobCalls):
    """Draft jobs."""

    def __init__(self, transport: Transport, *, project: str) -> None:
        super().__init__(transport, project=project)
        self._drafts = annotation_service_pb2_grpc.AnnotationServiceStub(transport.channel)

    async def create_draft_job(
        self, draft_job_id: str, spec: annotation_service_pb2.DraftSpec, *, request_id: str = ""
    ) -> DraftJob:
        """Submits a draft job. If `draft_job_id` is empty, the service chooses one.

        Calls with the same `request_id` create one job. Raises FailedPrecondition DRAFTS_COMPLETE if the model has
        drafted every pair of the campaign.
        """
        request = annotation_service_pb2.CreateDraftJobRequest(
            parent=self.parent,
            draft_job_id=draft_job_id,
            draft_job=DraftJob(spec=spec),
            request_id=request_id or str(uuid.uuid4()),
        )
        return await self._transport.unary(self._drafts.CreateDraftJob, request)

    async def get_draft_job(self, name: str) -> DraftJob:
        """Returns one draft job. Raises NotFound."""
        request = annotation_service_pb2.GetDraftJobRequest(name=name)
        return await self._transport.unary(self._drafts.GetDraftJob, request)

    def list_draft_jobs(self) -> AsyncIterator[DraftJob]:
        """All draft jobs of the project, newest first."""
        request = annotation_service_pb2.ListDraftJobsRequest(parent=self.parent)
        return self._pages(self._drafts.ListDraftJobs, request, items="draft_jobs")

    async def pause_draft_job(self, name: str) -> DraftJob:
        """Stops a draft job from starting new work. Raises FailedPrecondition if it is not running."""
        request = annotation_service_pb2.PauseDraftJobRequest(name=name)
        return await self._transport.unary(self._drafts.PauseDraftJob, request)

    async def resume_draft_job(self, name: str, *, token_budget: int = 0) -> DraftJob:
        """Continues a paused draft job; `token_budget` is its budget from now on, 0 leaves it.

        Raises FailedPrecondition TOKEN_BUDGET_USED, and JOB_STATE if it is not paused.
        """
        request = annotation_service_pb2.ResumeDraftJobRequest(name=name, token_budget=token_budget)
        return await self._transport.unary(self._drafts.ResumeDraftJob, request)

    async def cancel_draft_job(self, name: str) -> DraftJob:
        """Ends a draft job; its drafts stay. One that has ended stays as it is."""
        request = annotation_service_pb2.CancelDraftJobRequest(name=name)
        return await self._transport.unary(self._drafts.CancelDraftJob, request)

    async def delete_draft_job(self, name: str) -> None:
        """Deletes a draft job that has ended; its drafts stay. Raises NotFound, and FailedPrecondition JOB_STATE."""
        request = annotation_service_pb2.DeleteDraftJobRequest(name=name)
        # A second attempt, after a first that succeeded unseen, would raise NotFound.
        await self._transport.unary(self._drafts.DeleteDraftJob, request, idempotent=False)

    def watch_draft_job(
        self, name: str, *, resume_after: int = 0, reconnect_seconds: float = RECONNECT_SECONDS
    ) -> AsyncIterator[annotation_service_pb2.WatchDraftJobResponse]:
        """Yields the events of a draft job until it ends; survives restarts of the service of up to
        `reconnect_seconds`."""
        return self._watch(
            self._drafts.WatchDraftJob,
            annotation_service_pb2.WatchDraftJobRequest(name=name, resume_after=resume_after),
            ended=lambda event: event.draft_job.state in ENDED_DRAFT_STATES,
            reconnect_seconds=reconnect_seconds,
        )
