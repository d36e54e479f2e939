"""Calls of the AnnotationService: campaigns, and the tasks of their annotators."""

import uuid
from collections.abc import AsyncIterator, Iterator, Sequence
from typing import cast

from omnialign.client.transport import ServiceCalls, Transport
from omnialign.v1 import annotation_pb2, annotation_service_pb2, annotation_service_pb2_grpc

COMMIT_DEADLINE_SECONDS = 600.0
"""For calls that read or write a whole dataset."""
REPORT_DEADLINE_SECONDS = 120.0
IMPORTED_AT_ONCE = 200
IMPORTED_BYTES_AT_ONCE = 1024 * 1024
"""Of annotations per message; a single one that is larger goes by itself."""

Task = annotation_service_pb2.Task


class AnnotationCalls(ServiceCalls):
    """Annotation campaigns. `annotator` and `adjudicator` say who acts where the service has no authentication."""

    def __init__(self, transport: Transport, *, project: str) -> None:
        super().__init__(transport, project=project)
        self._annotation = annotation_service_pb2_grpc.AnnotationServiceStub(transport.channel)

    async def create_campaign(
        self, campaign_id: str, campaign: annotation_service_pb2.Campaign, *, request_id: str = ""
    ) -> annotation_service_pb2.Campaign:
        """Makes a campaign over `campaign.dataset_version`. If `campaign_id` is empty, the service chooses one.

        Calls with the same `request_id` make one campaign. Raises InvalidArgument NO_PAIRS for a dataset without pairs.
        """
        request = annotation_service_pb2.CreateCampaignRequest(
            parent=self.parent,
            campaign_id=campaign_id,
            campaign=campaign,
            request_id=request_id or str(uuid.uuid4()),
        )
        return await self._transport.unary(
            self._annotation.CreateCampaign, request, deadline_seconds=COMMIT_DEADLINE_SECONDS
        )

    async def get_campaign(self, name: str) -> annotation_service_pb2.Campaign:
        """Returns one campaign with its progress. Raises NotFound."""
        request = annotation_service_pb2.GetCampaignRequest(name=name)
        return await self._transport.unary(self._annotation.GetCampaign, request)

    def list_campaigns(self) -> AsyncIterator[annotation_service_pb2.Campaign]:
        """All campaigns of the project, newest first, without their progress."""
        request = annotation_service_pb2.ListCampaignsRequest(parent=self.parent)
        return self._pages(self._annotation.ListCampaigns, request, items="campaigns")

    async def update_campaign(
        self, campaign: annotation_service_pb2.Campaign, fields: Sequence[str]
    ) -> annotation_service_pb2.Campaign:
        """Changes these fields of the campaign of this name; what was submitted stays as it is.

        Raises NotFound, and InvalidArgument UPDATE_MASK_INVALID for a field that cannot be changed.
        """
        request = annotation_service_pb2.UpdateCampaignRequest(campaign=campaign)
        request.update_mask.paths.extend(fields)
        return await self._transport.unary(
            self._annotation.UpdateCampaign, request, deadline_seconds=COMMIT_DEADLINE_SECONDS
        )

    async def close_campaign(self, name: str) -> annotation_service_pb2.Campaign:
        """Ends the annotation: nothing is given out or submitted. Raises NotFound."""
        request = annotation_service_pb2.CloseCampaignRequest(name=name)
        return await self._transport.unary(self._annotation.CloseCampaign, request)

    async def reopen_campaign(self, name: str) -> annotation_service_pb2.Campaign:
        """Lets the annotation of a closed campaign go on. Raises NotFound."""
        request = annotation_service_pb2.ReopenCampaignRequest(name=name)
        return await self._transport.unary(self._annotation.ReopenCampaign, request)

    async def delete_campaign(self, name: str) -> None:
        """Deletes a campaign with its answers; dataset versions that it made stay. Raises NotFound."""
        request = annotation_service_pb2.DeleteCampaignRequest(name=name)
        # A second attempt, after a first that succeeded unseen, would raise NotFound.
        await self._transport.unary(self._annotation.DeleteCampaign, request, idempotent=False)

    async def lease_task(self, campaign: str, *, annotator: str = "") -> annotation_service_pb2.LeaseTaskResponse:
        """Gives the annotator a task: the one that they have already, or the next. None is free if `task` is unset."""
        request = annotation_service_pb2.LeaseTaskRequest(parent=campaign, annotator=annotator)
        return await self._transport.unary(self._annotation.LeaseTask, request)

    async def save_draft(
        self, name: str, annotation: annotation_pb2.Annotation, *, revision: int, annotator: str = ""
    ) -> Task:
        """Keeps what is written so far; `revision` is that of the task it goes on from.

        Raises Aborted DRAFT_STALE if another window has saved since, and FailedPrecondition TASK_DONE.
        """
        request = annotation_service_pb2.SaveDraftRequest(
            name=name, annotator=annotator, annotation=annotation, revision=revision
        )
        return await self._transport.unary(self._annotation.SaveDraft, request)

    async def submit_task(
        self,
        name: str,
        annotation: annotation_pb2.Annotation,
        *,
        revision: int,
        annotator: str = "",
        request_id: str = "",
    ) -> Task:
        """Submits a complete annotation, once; repeating it is harmless.

        Raises InvalidArgument ANNOTATION_INCOMPLETE, FailedPrecondition LEASE_LOST and ALREADY_SUBMITTED, and Aborted
        DRAFT_STALE.
        """
        request = annotation_service_pb2.SubmitTaskRequest(
            name=name,
            annotator=annotator,
            annotation=annotation,
            revision=revision,
            request_id=request_id or str(uuid.uuid4()),
        )
        return await self._transport.unary(self._annotation.SubmitTask, request)

    async def skip_task(self, name: str, reason: str, *, annotator: str = "") -> Task:
        """Gives the seat to others; the annotator does not get the pair again."""
        request = annotation_service_pb2.SkipTaskRequest(name=name, annotator=annotator, reason=reason)
        return await self._transport.unary(self._annotation.SkipTask, request)

    async def flag_task(self, name: str, reason: str, *, annotator: str = "") -> Task:
        """Sets the pair aside: nobody gets it, and it is not committed until it is adjudicated."""
        request = annotation_service_pb2.FlagTaskRequest(name=name, annotator=annotator, reason=reason)
        return await self._transport.unary(self._annotation.FlagTask, request)

    async def import_annotations(
        self,
        campaign: str,
        annotations: Sequence[annotation_service_pb2.ImportedAnnotation],
        *,
        tool: str,
        file_sha256: str,
    ) -> list[annotation_service_pb2.ImportResult]:
        """Brings annotations from a file of another tool; what became of each, in order. Repeating it is harmless."""
        results = list[annotation_service_pb2.ImportResult]()
        for batch in _batches(annotations):
            request = annotation_service_pb2.ImportAnnotationsRequest(
                parent=campaign, tool=tool, file_sha256=file_sha256, annotations=batch
            )
            answer: annotation_service_pb2.ImportAnnotationsResponse = await self._transport.unary(
                self._annotation.ImportAnnotations, request, deadline_seconds=COMMIT_DEADLINE_SECONDS
            )
            results += answer.results
        return results

    def list_items(
        self,
        campaign: str,
        filter: int = 0,  # noqa: A002  the contract's word
    ) -> AsyncIterator[annotation_service_pb2.Item]:
        """The pairs of a campaign with their answers; `filter` is a `ListItemsRequest.Filter`, 0 is all of them."""
        request = annotation_service_pb2.ListItemsRequest(
            parent=campaign, filter=cast("annotation_service_pb2.ListItemsRequest.Filter.ValueType", filter)
        )
        return self._pages(self._annotation.ListItems, request, items="items")

    async def get_item(self, name: str) -> annotation_service_pb2.Item:
        """Returns one pair with its answers. Raises NotFound."""
        request = annotation_service_pb2.GetItemRequest(name=name)
        return await self._transport.unary(self._annotation.GetItem, request)

    async def adjudicate_item(
        self, name: str, adjudication: annotation_service_pb2.Adjudication, *, adjudicator: str = ""
    ) -> annotation_service_pb2.Item:
        """Decides about a pair. Raises InvalidArgument ANSWER_NOT_FOUND or ANNOTATION_INCOMPLETE."""
        request = annotation_service_pb2.AdjudicateItemRequest(
            name=name, adjudicator=adjudicator, adjudication=adjudication
        )
        return await self._transport.unary(self._annotation.AdjudicateItem, request)

    async def get_agreement(self, name: str) -> annotation_service_pb2.GetAgreementResponse:
        """How far the annotators of a campaign agree, so far."""
        request = annotation_service_pb2.GetAgreementRequest(name=name)
        return await self._transport.unary(
            self._annotation.GetAgreement, request, deadline_seconds=REPORT_DEADLINE_SECONDS
        )

    async def get_model_agreement(self, name: str) -> annotation_service_pb2.GetModelAgreementResponse:
        """How far the models that drafted pairs of a campaign agree with its annotators, so far."""
        request = annotation_service_pb2.GetModelAgreementRequest(name=name)
        return await self._transport.unary(
            self._annotation.GetModelAgreement, request, deadline_seconds=REPORT_DEADLINE_SECONDS
        )

    async def commit_campaign(
        self, name: str, *, dataset_id: str = ""
    ) -> annotation_service_pb2.CommitCampaignResponse:
        """Writes the pairs that are decided as a new version of a dataset, by default that of the campaign's id.

        Raises FailedPrecondition NOTHING_DECIDED and DATASET_VERSION_GONE, and AlreadyExists DATASET_EXISTS.
        """
        request = annotation_service_pb2.CommitCampaignRequest(name=name, dataset_id=dataset_id)
        return await self._transport.unary(
            self._annotation.CommitCampaign, request, deadline_seconds=COMMIT_DEADLINE_SECONDS
        )


def _batches(
    annotations: Sequence[annotation_service_pb2.ImportedAnnotation],
) -> Iterator[list[annotation_service_pb2.ImportedAnnotation]]:
    batch, size = list[annotation_service_pb2.ImportedAnnotation](), 0
    for one in annotations:
        if batch and (len(batch) == IMPORTED_AT_ONCE or size + one.ByteSize() > IMPORTED_BYTES_AT_ONCE):
            yield batch
            batch, size = [], 0
        batch.append(one)
        size += one.ByteSize()
    if batch:
        yield batch
