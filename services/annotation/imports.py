"""Annotations that were made in another tool: each is added to the campaign, or refused with its reason.

The lineage gets its edge first. If the service dies in between, repeating the call adds what is missing, and no
annotation is ever there without the file that it is from.
"""

from collections.abc import Callable, Mapping

from omnialign import names
from omnialign.client import AsyncClient
from omnialign.errors import FailedPrecondition, InvalidArgument, NotFound, OmnialignError
from omnialign.v1.annotation_service_pb2 import (
    Campaign,
    ImportAnnotationsRequest,
    ImportAnnotationsResponse,
    ImportedAnnotation,
    ImportResult,
)
from omnialign.v1.data_service_pb2 import LineageEdge
from services.annotation import seats
from services.annotation.campaigns import Clock, check_open, number_of, rubric_of
from services.annotation.changes import Changes
from services.annotation.form import check_complete
from services.annotation.metrics import AnnotationMetrics
from services.annotation.seats import Writer
from services.annotation.store import Entry, Store

RELATION = "annotations_imported_from"


class Imports:
    """The way in for annotations of other tools."""

    def __init__(
        self,
        store: Store,
        changes: Changes,
        *,
        connect: Callable[[str], AsyncClient],
        now_us: Clock,
        metrics: AnnotationMetrics,
    ) -> None:
        self._store, self._changes, self._connect = store, changes, connect
        self._now_us, self._metrics = now_us, metrics

    async def add(self, request: ImportAnnotationsRequest) -> ImportAnnotationsResponse:
        """What became of each annotation. Raises NotFound CAMPAIGN_NOT_FOUND, FailedPrecondition CAMPAIGN_CLOSED."""
        names.parse(request.parent, names.CAMPAIGN, field="parent")
        campaign = await self._store.campaign(request.parent)
        check_open(campaign)
        numbers = [number_of(names.id_of(one.item)) for one in request.annotations]
        entries = await self._store.numbered(campaign.name, numbers)
        for one in request.annotations:  # nobody saw a draft of ours in another tool
            one.annotation.ClearField("draft_model")
            one.annotation.ClearField("origins")
        results = [_checked(one, campaign, entries) for one in request.annotations]
        if not any(result.state == ImportResult.STATE_ADDED for result in results):
            return ImportAnnotationsResponse(results=results)
        async with self._connect(names.project_of(campaign.name)) as client:
            source = f"{request.tool}:sha256:{request.file_sha256}"
            await client.add_lineage([LineageEdge(source=source, target=campaign.name, relation=RELATION)])
        admitted = {
            one.annotator for one, result in zip(request.annotations, results, strict=True) if not result.reason
        }
        await self._changes.add_annotators(campaign.name, admitted)
        for one, number, result in zip(request.annotations, numbers, results, strict=True):
            if result.state == ImportResult.STATE_ADDED:
                await self._admit(campaign, number, one, result)
        return ImportAnnotationsResponse(results=results)

    async def _admit(self, campaign: Campaign, number: int, one: ImportedAnnotation, result: ImportResult) -> None:
        """Submits one, and notes in its result how that went."""
        now_us = self._now_us()
        who, made_us = Writer(one.annotator, now_us), now_us
        if one.HasField("answer_time"):
            made_us = one.answer_time.ToMicroseconds()
        try:
            is_new = await self._store.write(
                lambda c: seats.admit(
                    c, self._store.insert, campaign.name, number, who, one.annotation, made_us=made_us
                )
            )
        except FailedPrecondition as error:
            result.CopyFrom(_refused(error))
        else:
            result.state = ImportResult.STATE_ADDED if is_new else ImportResult.STATE_UNCHANGED
            if is_new:
                self._metrics.count("imported")


def _checked(one: ImportedAnnotation, campaign: Campaign, entries: Mapping[int, Entry]) -> ImportResult:
    """ADDED for an annotation that may be, or why not."""
    try:
        entry = entries.get(number_of(names.id_of(one.item)))
        if entry is None or one.item != entry.name:
            message = f"{one.item} is not a pair of {campaign.name}"
            raise NotFound(message, reason="ITEM_NOT_FOUND", metadata={"item": one.item})
        if not one.annotator.strip():
            raise InvalidArgument("The annotator has no name.", reason="ANNOTATOR_MISSING")
        check_complete(one.annotation, rubric_of(campaign, entry.subtask), entry.shape)
    except (InvalidArgument, NotFound) as error:
        return _refused(error)
    return ImportResult(state=ImportResult.STATE_ADDED)


def _refused(error: OmnialignError) -> ImportResult:
    details = "; ".join(f"{field} {problem}" for field, problem in error.violations)
    return ImportResult(state=ImportResult.STATE_REFUSED, reason=error.reason, message=details or error.message)
