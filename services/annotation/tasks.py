"""Tasks as an annotator has them: a seat is leased, drafts are saved, and it is submitted, skipped or flagged once."""

from omnialign import names
from omnialign.errors import FailedPrecondition, PermissionDenied
from omnialign.v1.annotation_pb2 import Annotation, ModelDraft
from omnialign.v1.annotation_service_pb2 import (
    Campaign,
    FlagTaskRequest,
    LeaseTaskRequest,
    LeaseTaskResponse,
    SaveDraftRequest,
    SkipTaskRequest,
    SubmitTaskRequest,
    Task,
)
from services.annotation import seats
from services.annotation.campaigns import Clock, check_open, number_of, rubric_of
from services.annotation.drafting.drafts import Drafts
from services.annotation.drafting.origins import settle
from services.annotation.form import check_complete, check_draft
from services.annotation.identity import person
from services.annotation.metrics import AnnotationMetrics
from services.annotation.pairs import BlindPairs
from services.annotation.seats import Opening, Place, Standing, Writer
from services.annotation.sides import is_swapped, turned, turned_pair
from services.annotation.store import Entry, Store

SECOND_US = 1_000_000
PAIRS_AHEAD = 64
"""Pairs that are read with one that is asked for."""
FIELD = "annotator"


class Tasks:
    """The tasks of all campaigns."""

    def __init__(
        self, store: Store, pairs: BlindPairs, drafts: Drafts, *, now_us: Clock, metrics: AnnotationMetrics
    ) -> None:
        self._store, self._pairs, self._drafts, self._now_us, self._metrics = store, pairs, drafts, now_us, metrics

    async def lease(self, request: LeaseTaskRequest) -> LeaseTaskResponse:
        """The annotator's seat, or how many seats are with others.

        Raises NotFound, PermissionDenied NOT_AN_ANNOTATOR, and FailedPrecondition CAMPAIGN_CLOSED and
        DATASET_VERSION_GONE.
        """
        names.parse(request.parent, names.CAMPAIGN, field="parent")
        campaign = await self._store.campaign(request.parent)
        who = self._writer(campaign, request.annotator)
        check_open(campaign)
        until_us = self._until(campaign, who)
        standing = await self._store.write(
            lambda c: seats.lease(
                c, self._store.insert, campaign, who, until_us=until_us, opening=self._opening(campaign)
            )
        )
        if standing is None:
            held = await self._store.read(lambda c: seats.count_held_by_others(c, campaign.name, who))
            return LeaseTaskResponse(held_by_others_count=held)
        number = standing.place.number
        entry = await self._store.entry(campaign.name, number)

        async def following() -> list[str]:
            entries = await self._store.entries(campaign.name, after=number - 1, limit=PAIRS_AHEAD)
            return [one.record for one in entries]

        # If the data service is away now, the seat is the annotator's all the same: the next call returns it.
        record = await self._pairs.get(campaign.dataset_version, entry.record, following)
        self._metrics.count("leased")
        task = _task(standing)
        task.record.CopyFrom(turned_pair(record) if standing.swapped else record)
        task.rubric.CopyFrom(rubric_of(campaign, entry.subtask))
        if task.annotation.draft_model:
            drafts = await self._drafts.of(campaign.name, numbers=[number], model=task.annotation.draft_model)
            task.draft.CopyFrom(drafts[number][0])
        return LeaseTaskResponse(task=task)

    async def save(self, request: SaveDraftRequest) -> Task:
        """Keeps a draft. Raises InvalidArgument ANNOTATION_INVALID, and what `seats.save` raises."""
        campaign, entry, place = await self._found(request.name)
        who = self._writer(campaign, request.annotator)
        annotation = await self._written(request.annotation, campaign, entry, who, is_final=False)
        until_us = self._until(campaign, who)
        standing = await self._store.write(
            lambda c: seats.save(c, place, who, annotation, revision=request.revision, until_us=until_us)
        )
        self._metrics.count("saved" if standing.state == Task.STATE_LEASED else "lost")
        return _task(standing)

    async def submit(self, request: SubmitTaskRequest) -> Task:
        """Submits once. Raises InvalidArgument ANNOTATION_INCOMPLETE, FailedPrecondition LEASE_LOST and
        CAMPAIGN_CLOSED, and what `seats.submit` raises."""
        campaign, entry, place = await self._found(request.name)
        who = self._writer(campaign, request.annotator)
        annotation = await self._written(request.annotation, campaign, entry, who, is_final=True)
        standing = await self._store.write(
            lambda c: seats.submit(
                c,
                place,
                who,
                annotation,
                revision=request.revision,
                request_id=request.request_id,
                is_closed=campaign.state == Campaign.STATE_CLOSED,
            )
        )
        if standing.state == Task.STATE_LOST:
            self._metrics.count("lost")
            check_open(campaign)
            raise FailedPrecondition(
                "The lease ran out and the seat went to somebody else; the annotation is kept as your draft: ask for a "
                "task with LeaseTask, which gives this pair back if it has a free seat.",
                reason="LEASE_LOST",
                metadata={"name": request.name, "revision": str(standing.revision)},
            )
        self._metrics.count("submitted")
        return _task(standing)

    async def skip(self, request: SkipTaskRequest) -> Task:
        """Gives the seat to others. Raises what `seats.give_up` raises."""
        return await self._give_up(request, Task.STATE_SKIPPED)

    async def flag(self, request: FlagTaskRequest) -> Task:
        """Sets the pair aside. Raises what `seats.give_up` raises."""
        return await self._give_up(request, Task.STATE_FLAGGED)

    async def _give_up(self, request: SkipTaskRequest | FlagTaskRequest, state: "Task.State.ValueType") -> Task:
        campaign, _, place = await self._found(request.name)
        who = self._writer(campaign, request.annotator)
        check_open(campaign)
        standing = await self._store.write(lambda c: seats.give_up(c, place, who, state=state, reason=request.reason))
        self._metrics.count(seats.WORDS[state])
        return _task(standing)

    async def _found(self, name: str) -> tuple[Campaign, Entry, Place]:
        ids = names.parse(name, names.TASK)
        number, _, seat = ids["task"].partition("-")
        campaign, entry = await self._store.campaign_and_entry(names.parent_of(name), number_of(number))
        return campaign, entry, Place(campaign.name, entry.number, min(number_of(seat), 2**31 - 1))

    def _opening(self, campaign: Campaign) -> Opening:
        """What an annotation of the campaign begins with."""
        return self._drafts.opening(campaign.name, campaign.start_from) if campaign.start_from else seats.empty

    async def _note_draft(
        self, annotation: Annotation, campaign: Campaign, number: int, who: Writer
    ) -> ModelDraft | None:
        """The model's draft from which an annotation began, which is noted in it, whatever the caller says of it."""
        model = ""
        if campaign.start_from or annotation.draft_model:
            model = (
                await self._store.read(lambda c: seats.written(c, Place(campaign.name, number, 0), who))
            ).draft_model
        annotation.draft_model = model
        if not model:
            annotation.ClearField("origins")
            return None
        return (await self._drafts.of(campaign.name, numbers=[number], model=model))[number][0]

    async def _written(
        self, given: Annotation, campaign: Campaign, entry: Entry, who: Writer, *, is_final: bool
    ) -> Annotation:
        """What an annotator sends, in the order of the record. It is checked as they see it: errors name its fields."""
        seen = await self._store.read(lambda c: seats.seen_swapped(c, campaign.name, entry.number, who))
        swapped = is_swapped(campaign, entry.number, who.annotator) if seen is None else seen
        shape = entry.shape.swapped() if swapped else entry.shape
        (check_complete if is_final else check_draft)(given, rubric_of(campaign, entry.subtask), shape)
        draft = await self._note_draft(given, campaign, entry.number, who)
        if is_final and draft is not None:
            settle(given, draft.annotation)
        return turned(given) if swapped else given

    def _writer(self, campaign: Campaign, given: str) -> Writer:
        annotator = person(given, field=FIELD)
        if campaign.annotators and annotator not in campaign.annotators:
            raise PermissionDenied(
                f"{annotator!r} is not an annotator of {campaign.name}: ask whoever made it.",
                reason="NOT_AN_ANNOTATOR",
                metadata={"annotator": annotator, "campaign": campaign.name},
            )
        return Writer(annotator, self._now_us())

    def _until(self, campaign: Campaign, who: Writer) -> int:
        return who.now_us + campaign.lease_seconds * SECOND_US


def _task(standing: Standing) -> Task:
    place, annotation = standing.place, Annotation.FromString(standing.message)
    task = Task(
        name=f"{place.campaign}/tasks/{place.number}-{place.seat}",
        annotation=turned(annotation) if standing.swapped else annotation,
        revision=standing.revision,
        state=standing.state,
        reason=standing.reason,
        swapped=standing.swapped,
    )
    if standing.expires_us:
        task.lease_expire_time.FromMicroseconds(standing.expires_us)
    return task
