"""Translates AnnotationService calls; decides nothing."""

import functools
from typing import Any

from google.protobuf import empty_pb2

from omnialign.names import id_of
from omnialign.v1 import annotation_service_pb2 as pb
from omnialign.v1 import annotation_service_pb2_grpc
from services.annotation.campaigns import Campaigns
from services.annotation.changes import Changes
from services.annotation.drafting import budget
from services.annotation.drafting.job import Job
from services.annotation.drafting.submission import create_draft_job
from services.annotation.imports import Imports
from services.annotation.tasks import Tasks
from services.pipeline.service import Pipeline
from services.pipeline.servicer import JobServicer
from services.runtime.requests import decode_token, encode_token, page_size


class AnnotationServicer(JobServicer, annotation_service_pb2_grpc.AnnotationServiceServicer):
    """The service's RPCs; those on draft jobs are the ones of all job kinds."""

    list_response, list_field = pb.ListDraftJobsResponse, "draft_jobs"

    GetDraftJob = JobServicer.get
    ListDraftJobs = JobServicer.list_page
    PauseDraftJob = JobServicer.pause
    CancelDraftJob = JobServicer.cancel
    DeleteDraftJob = JobServicer.delete
    WatchDraftJob = JobServicer.watch

    def __init__(
        self,
        campaigns: Campaigns,
        changes: Changes,
        tasks: Tasks,
        imports: Imports,
        pipeline: Pipeline,
        *,
        token_budget: int,
    ) -> None:
        super().__init__(pipeline)
        self._campaigns, self._changes, self._tasks, self._imports = campaigns, changes, tasks, imports
        self._token_budget = token_budget

    async def CreateCampaign(self, request: pb.CreateCampaignRequest, context: Any) -> pb.Campaign:  # noqa: N802
        """Makes a campaign."""
        return await self._campaigns.create(request)

    async def GetCampaign(self, request: pb.GetCampaignRequest, context: Any) -> pb.Campaign:  # noqa: N802
        """Reads a campaign."""
        return await self._campaigns.get(request.name)

    async def ListCampaigns(self, request: pb.ListCampaignsRequest, context: Any) -> pb.ListCampaignsResponse:  # noqa: N802
        """Lists campaigns, newest first."""
        size = page_size(request.page_size)
        after = decode_token(request.page_token, filter=request.parent, kinds=(int, str))
        found = await self._campaigns.page(request.parent, after=after, limit=size + 1)
        shown, token = found[:size], ""
        if len(found) > size:
            last = shown[-1]
            token = encode_token([str(last.create_time.ToMicroseconds()), last.name], filter=request.parent)
        return pb.ListCampaignsResponse(campaigns=shown, next_page_token=token)

    async def UpdateCampaign(self, request: pb.UpdateCampaignRequest, context: Any) -> pb.Campaign:  # noqa: N802
        """Changes a campaign."""
        return await self._changes.update(request)

    async def CloseCampaign(self, request: pb.CloseCampaignRequest, context: Any) -> pb.Campaign:  # noqa: N802
        """Ends the annotation."""
        return await self._changes.close(request.name)

    async def ReopenCampaign(self, request: pb.ReopenCampaignRequest, context: Any) -> pb.Campaign:  # noqa: N802
        """Lets it go on."""
        return await self._changes.reopen(request.name)

    async def DeleteCampaign(self, request: pb.DeleteCampaignRequest, context: Any) -> empty_pb2.Empty:  # noqa: N802
        """Deletes a campaign."""
        await self._campaigns.delete(request.name)
        return empty_pb2.Empty()

    async def LeaseTask(self, request: pb.LeaseTaskRequest, context: Any) -> pb.LeaseTaskResponse:  # noqa: N802
        """Gives a seat."""
        return await self._tasks.lease(request)

    async def SaveDraft(self, request: pb.SaveDraftRequest, context: Any) -> pb.Task:  # noqa: N802
        """Keeps a draft."""
        return await self._tasks.save(request)

    async def SubmitTask(self, request: pb.SubmitTaskRequest, context: Any) -> pb.Task:  # noqa: N802
        """Submits an annotation."""
        return await self._tasks.submit(request)

    async def SkipTask(self, request: pb.SkipTaskRequest, context: Any) -> pb.Task:  # noqa: N802
        """Skips a pair."""
        return await self._tasks.skip(request)

    async def FlagTask(self, request: pb.FlagTaskRequest, context: Any) -> pb.Task:  # noqa: N802
        """Sets a pair aside."""
        return await self._tasks.flag(request)

    async def ImportAnnotations(  # noqa: N802
        self, request: pb.ImportAnnotationsRequest, context: Any
    ) -> pb.ImportAnnotationsResponse:
        """Takes annotations from another tool."""
        return await self._imports.add(request)

    async def ListItems(self, request: pb.ListItemsRequest, context: Any) -> pb.ListItemsResponse:  # noqa: N802
        """Lists pairs with their answers."""
        size, query = page_size(request.page_size), f"{request.parent} {request.filter}"
        after = decode_token(request.page_token, filter=query, kinds=(int,))
        found = await self._campaigns.items(
            request.parent, after=int(after[0]) if after else 0, limit=size + 1, which=request.filter
        )
        token = encode_token([id_of(found[size - 1].name)], filter=query) if len(found) > size else ""
        return pb.ListItemsResponse(items=found[:size], next_page_token=token)

    async def GetItem(self, request: pb.GetItemRequest, context: Any) -> pb.Item:  # noqa: N802
        """Reads a pair with its answers."""
        return await self._campaigns.item(request.name)

    async def AdjudicateItem(self, request: pb.AdjudicateItemRequest, context: Any) -> pb.Item:  # noqa: N802
        """Decides about a pair."""
        return await self._campaigns.adjudicate(request)

    async def GetAgreement(self, request: pb.GetAgreementRequest, context: Any) -> pb.GetAgreementResponse:  # noqa: N802
        """Tells how far annotators agree."""
        return await self._campaigns.agreement(request.name)

    async def GetModelAgreement(  # noqa: N802
        self, request: pb.GetModelAgreementRequest, context: Any
    ) -> pb.GetModelAgreementResponse:
        """Tells how far models agree with people."""
        return await self._campaigns.model_agreement(request.name)

    async def CommitCampaign(self, request: pb.CommitCampaignRequest, context: Any) -> pb.CommitCampaignResponse:  # noqa: N802
        """Writes what is decided."""
        return await self._campaigns.commit(request)

    async def CreateDraftJob(self, request: pb.CreateDraftJobRequest, context: Any) -> Job:  # noqa: N802
        """Submits a draft job."""
        return await create_draft_job(self._pipeline, request, token_budget=self._token_budget)

    async def ResumeDraftJob(self, request: pb.ResumeDraftJobRequest, context: Any) -> Job:  # noqa: N802
        """Continues a draft job, with another budget if one is given."""
        job = await self._jobs.get(request.name)
        raised = functools.partial(budget.raised, token_budget=request.token_budget)
        await self._pipeline.store.change(job.uid, raised)
        return await self._jobs.resume(request.name)  # type: ignore[no-any-return]  # the pipeline knows no kind
