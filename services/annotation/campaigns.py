"""Campaigns: made over a dataset version, read, adjudicated, and committed as a new version."""

import asyncio
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence

from omnialign import names, rubrics
from omnialign.client import AsyncClient
from omnialign.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound
from omnialign.v1 import data_service_pb2
from omnialign.v1.annotation_pb2 import Rubric
from omnialign.v1.annotation_service_pb2 import (
    AdjudicateItemRequest,
    Adjudication,
    Campaign,
    CommitCampaignRequest,
    CommitCampaignResponse,
    CreateCampaignRequest,
    GetAgreementResponse,
    GetModelAgreementResponse,
    Item,
    Priority,
    Task,
)
from omnialign.v1.dataset_pb2 import DatasetVersion
from omnialign.v1.record_pb2 import Record
from services.annotation.drafting.drafts import Drafts
from services.annotation.drafting.people import model_agreement
from services.annotation.form import Shape, check_complete
from services.annotation.identity import person
from services.annotation.pairs import Pairs
from services.annotation.reports import agreement
from services.annotation.results import CAMPAIGN_LABEL, Left, Outcome, annotated, outcome
from services.annotation.store import NewItem, Store, item_message
from services.runtime.uses import Uses

LEASE_SECONDS = 1800
RECORDS_AT_ONCE = 500

Clock = Callable[[], int]
"""Microseconds since 1970, by the server's clock."""
Connect = Callable[[str], AsyncClient]
"""A client of the data service for a project."""
VersionOf = Callable[[str, str], Awaitable[str]]
"""The version that a model's name means now, for a project's name."""


class Campaigns:
    """The campaigns of a service."""

    def __init__(
        self,
        store: Store,
        client: AsyncClient,
        *,
        drafts: Drafts,
        connect: Connect,
        version_of: VersionOf,
        uses: Uses,
        now_us: Clock,
        max_items: int,
    ) -> None:
        """`client` reads datasets of all projects; `connect` opens one that writes to a project."""
        self._store, self._client, self._pairs, self._drafts = store, client, Pairs(client), drafts
        self._connect, self._version_of, self._now_us, self._max_items = connect, version_of, now_us, max_items
        self._uses = uses

    async def create(self, request: CreateCampaignRequest) -> Campaign:
        """Makes a campaign with its seats; a repeated request returns the first one's.

        Raises InvalidArgument for a dataset version that has no pairs or is of another project, and for rubrics and
        quality items that cannot be used; NotFound for one that is missing; AlreadyExists for an id that is taken.
        """
        names.parse(request.parent, names.PROJECT, field="parent")
        version = request.campaign.dataset_version
        names.parse(version, names.DATASET_VERSION, field="campaign.dataset_version")
        if names.project_name_of(version) != request.parent:
            raise invalid("campaign.dataset_version", f"must be in {request.parent}", reason="DATASET_OF_OTHER_PROJECT")
        if (made := await self._store.made_by(request)) is not None:
            return made
        # The newest version is one of them from here on.
        version = (await self._client.get_dataset_version(version)).name
        uid = str(uuid.uuid4())
        campaign = Campaign()
        campaign.CopyFrom(request.campaign)
        if campaign.start_from:
            campaign.start_from = await self._version_of(campaign.start_from, request.parent)
        campaign.ClearField("progress")
        campaign.name = f"{request.parent}/campaigns/{request.campaign_id or f'campaign-{uid[:12]}'}"
        campaign.uid, campaign.dataset_version = uid, version
        campaign.overlap, campaign.lease_seconds = campaign.overlap or 1, campaign.lease_seconds or LEASE_SECONDS
        campaign.create_time.FromMicroseconds(self._now_us())
        campaign.state = Campaign.STATE_OPEN
        check_overlap(campaign)
        items, left_out_count = await self._items(campaign)
        _fill_rubrics(campaign, [item.subtask for item in items])
        # If this process dies before the campaign is stored, or another has its name, the use runs out by itself.
        await self._uses.begin(campaign.name, campaign)
        return await self._store.create(campaign, request, items, left_out_count=left_out_count)

    async def get(self, name: str) -> Campaign:
        """A campaign with its progress. Raises NotFound."""
        names.parse(name, names.CAMPAIGN)
        return await self._store.get(name, now_us=self._now_us())

    async def page(self, parent: str, *, after: Sequence[str], limit: int) -> list[Campaign]:
        """Campaigns of a project, from newest to oldest."""
        names.parse(parent, names.PROJECT, field="parent")
        return await self._store.page(parent, after=after, limit=limit)

    async def delete(self, name: str) -> None:
        """Deletes a campaign. Raises NotFound."""
        names.parse(name, names.CAMPAIGN)
        await self._store.campaign(name)
        await self._uses.end(name)
        await self._store.delete(name)

    async def items(self, parent: str, *, after: int, limit: int, which: int) -> list[Item]:
        """Items with numbers above `after`; `which` is a `ListItemsRequest.Filter`. Raises NotFound."""
        names.parse(parent, names.CAMPAIGN, field="parent")
        await self._store.campaign(parent)
        entries = await self._store.entries(parent, after=after, limit=limit, which=which)
        numbers = [entry.number for entry in entries]
        answers = await self._store.answers(parent, numbers=numbers)
        drafts = await self._drafts.of(parent, numbers=numbers)
        return [item_message(one, answers.get(one.number, ()), drafts.get(one.number, ())) for one in entries]

    async def item(self, name: str) -> Item:
        """One item. Raises NotFound."""
        number = number_of(names.parse(name, names.ITEM)["item"])
        campaign, entry = await self._store.campaign_and_entry(names.parent_of(name), number)
        answers = await self._store.answers(campaign.name, numbers=[number])
        drafts = await self._drafts.of(campaign.name, numbers=[number])
        return item_message(entry, answers.get(number, ()), drafts.get(number, ()))

    async def adjudicate(self, request: AdjudicateItemRequest) -> Item:
        """Notes a decision. Raises NotFound, and InvalidArgument for an incomplete annotation or no such answer."""
        ids = names.parse(request.name, names.ITEM)
        campaign, entry = await self._store.campaign_and_entry(names.parent_of(request.name), number_of(ids["item"]))
        answers = (await self._store.answers(campaign.name, numbers=[entry.number])).get(entry.number, [])
        adjudication = Adjudication()
        adjudication.CopyFrom(request.adjudication)
        adjudication.adjudicator = person(request.adjudicator, field="adjudicator")
        adjudication.adjudicate_time.FromMicroseconds(self._now_us())
        kind = adjudication.WhichOneof("decision")
        if kind == "annotation":
            adjudication.annotation.ClearField("draft_model")  # an adjudicator begins from no draft
            adjudication.annotation.ClearField("origins")
            check_complete(adjudication.annotation, rubric_of(campaign, entry.subtask), entry.shape)
        submitted = [answer.annotator for answer in answers if answer.state == Task.STATE_SUBMITTED]
        if kind == "annotator" and adjudication.annotator not in submitted:
            problem = f"has submitted nothing for this item; {', '.join(submitted) or 'nobody'} has"
            raise invalid("adjudication.annotator", problem, reason="ANSWER_NOT_FOUND")
        await self._store.adjudicate(entry, adjudication)
        return item_message(await self._store.entry(campaign.name, entry.number), answers)

    async def agreement(self, name: str) -> GetAgreementResponse:
        """How far annotators agree, so far. Raises NotFound."""
        names.parse(name, names.CAMPAIGN)
        await self._store.campaign(name)
        known = {entry.number: entry.known for entry in await self._store.entries(name) if entry.known}
        return agreement(await self._store.answers(name), known)

    async def model_agreement(self, name: str) -> GetModelAgreementResponse:
        """How far models agree with people, so far. Raises NotFound."""
        names.parse(name, names.CAMPAIGN)
        await self._store.campaign(name)
        if not (drafts := await self._drafts.of(name)):
            return GetModelAgreementResponse()
        return await asyncio.to_thread(model_agreement, drafts, await self._store.answers(name))

    async def commit(self, request: CommitCampaignRequest) -> CommitCampaignResponse:
        """Writes the decided items as a version of the campaign's dataset. Safe to repeat, also after a failure.

        Raises NotFound, FailedPrecondition NOTHING_DECIDED and DATASET_VERSION_GONE, and AlreadyExists DATASET_EXISTS.
        """
        names.parse(request.name, names.CAMPAIGN)
        campaign = await self._store.campaign(request.name)
        answers = await self._store.answers(campaign.name)
        decided, left = dict[str, Outcome](), Counter[Left]()
        for entry in await self._store.entries(campaign.name):
            if entry.known:
                continue
            found = outcome(entry, answers.get(entry.number, []))
            if isinstance(found, Outcome):
                decided[entry.record] = found
            else:
                left[found] += 1
        if not decided:
            why = ", ".join(f"{left[kind]} {kind.value.replace('_', ' ')}" for kind in Left if left[kind])
            raise FailedPrecondition(
                f"No pair of {campaign.name} is decided{f': {why}' if why else ''}.",
                reason="NOTHING_DECIDED",
                metadata={kind.value: str(left[kind]) for kind in Left},
            )
        async with self._connect(names.project_of(campaign.name)) as client:
            version = await self._write(client, campaign, request.dataset_id, decided)
        return CommitCampaignResponse(
            dataset_version=version,
            committed_count=len(decided),
            open_count=left[Left.OPEN],
            undecided_count=left[Left.UNDECIDED],
            set_aside_count=left[Left.SET_ASIDE],
        )

    async def _write(
        self, client: AsyncClient, campaign: Campaign, dataset_id: str, decided: dict[str, Outcome]
    ) -> DatasetVersion:
        """The version with the records, and its lineage."""
        dataset = await _dataset(client, campaign, dataset_id or names.id_of(campaign.name))
        async for batch in self._annotated(campaign, decided):
            await client.append_records(dataset, batch)
        version = await client.commit_version(dataset)
        edge = data_service_pb2.LineageEdge
        source = edge(source=campaign.dataset_version, target=version.name, relation="annotated_in")
        models = dict.fromkeys(found.annotation.draft_model for found in decided.values())
        drafted = [edge(source=model, target=version.name, relation="drafted_in") for model in models if model]
        made = edge(source=campaign.name, target=version.name, relation="annotated_by")
        await client.add_lineage([source, made, *drafted])
        return version

    async def _annotated(self, campaign: Campaign, decided: dict[str, Outcome]) -> AsyncIterator[list[Record]]:
        batch = list[Record]()
        async for record in self._pairs.some(campaign.dataset_version, list(decided)):
            batch.append(annotated(record, decided[record.id]))
            if len(batch) == RECORDS_AT_ONCE:
                yield batch
                batch = []
        if batch:
            yield batch

    async def _items(self, campaign: Campaign) -> tuple[list[NewItem], int]:
        """The pairs of the dataset version, and how many other records it has."""
        items, left_out_count = list[NewItem](), 0
        async for record in self._pairs.all(campaign.dataset_version):
            if not is_pair(record):
                left_out_count += 1
                continue
            items.append(_item(campaign, record))
            if len(items) > self._max_items:
                problem = f"has more than {self._max_items} pairs; make a smaller dataset"
                raise invalid("campaign.dataset_version", problem, reason="CAMPAIGN_TOO_LARGE")
        if not items:
            problem = f"has no records with two responses, and {left_out_count} others"
            raise invalid("campaign.dataset_version", problem, reason="NO_PAIRS")
        return items, left_out_count


async def _dataset(client: AsyncClient, campaign: Campaign, dataset_id: str) -> str:
    """The dataset that the campaign is committed to, made if it is missing. Raises AlreadyExists DATASET_EXISTS."""
    name = f"{client.parent}/datasets/{dataset_id}"
    try:
        dataset = await client.get_dataset(name)
    except NotFound:
        words = campaign.display_name or names.id_of(campaign.name)
        dataset = await client.create_dataset(dataset_id, display_name=words, labels={CAMPAIGN_LABEL: campaign.name})
    if dataset.labels.get(CAMPAIGN_LABEL) != campaign.name:
        raise AlreadyExists(
            f"{name} exists and is not this campaign's; choose another dataset_id.",
            reason="DATASET_EXISTS",
            metadata={"name": name},
        )
    return name


def number_of(text: str) -> int:
    """The number in an item's name; 0, which none has, for other text."""
    return int(text) if text.isascii() and text.isdigit() and len(text) < 19 else 0


def check_open(campaign: Campaign) -> None:
    """Raises FailedPrecondition CAMPAIGN_CLOSED."""
    if campaign.state == Campaign.STATE_CLOSED:
        raise FailedPrecondition(
            f"{campaign.name} is closed: what you wrote is kept, and nothing is submitted until it is reopened.",
            reason="CAMPAIGN_CLOSED",
            metadata={"campaign": campaign.name},
        )


def rubric_of(campaign: Campaign, subtask: str) -> Rubric:
    """The rubric of a subtask of the campaign's dataset."""
    return next(rubric for rubric in campaign.rubrics if rubric.subtask == subtask)


def _item(campaign: Campaign, record: Record) -> NewItem:
    is_quality = is_quality_item(campaign, record)
    if is_quality and not record.preference.preferred:
        problem = f"marks record {record.id!r} as a quality item, which has no preference to be its known answer"
        raise invalid("campaign.quality_label", problem, reason="KNOWN_ANSWER_MISSING")
    return NewItem(
        record=record.id,
        subtask=record.subtask,
        shape=Shape.of(record),
        rank=rank_of(campaign, record),
        num_seats=seats_of(campaign, is_quality=is_quality),
        known=record.preference.preferred if is_quality else 0,
    )


def is_pair(record: Record) -> bool:
    """Whether a record can be annotated."""
    return len(record.responses) > 1


def is_quality_item(campaign: Campaign, record: Record) -> bool:
    """Whether a record's preference is a known answer."""
    return bool(campaign.quality_label) and campaign.quality_label in record.labels


def seats_of(campaign: Campaign, *, is_quality: bool) -> int:
    """How many annotations of a pair are wanted."""
    return max(campaign.overlap, len(campaign.annotators)) if is_quality else campaign.overlap


def rank_of(campaign: Campaign, record: Record) -> int:
    """A pair's place among the priorities; the least comes first."""
    is_quality = is_quality_item(campaign, record)
    meets = (n for n, priority in enumerate(campaign.priorities) if _meets(priority, record, is_quality=is_quality))
    return next(meets, len(campaign.priorities))


def _meets(priority: Priority, record: Record, *, is_quality: bool) -> bool:
    if priority.WhichOneof("pairs") == "quality_items":
        return is_quality
    key, value = priority.label.key, priority.label.value
    return key in record.labels and value in ("", record.labels[key])


def check_overlap(campaign: Campaign) -> None:
    """Raises InvalidArgument OVERLAP_TOO_LARGE if there are fewer annotators than annotations are wanted of a pair."""
    if campaign.annotators and campaign.overlap > len(campaign.annotators):
        problem = f"is {campaign.overlap}, and there are {len(campaign.annotators)} annotators"
        raise invalid("campaign.overlap", problem, reason="OVERLAP_TOO_LARGE")


def _fill_rubrics(campaign: Campaign, subtasks: Sequence[str]) -> None:
    """Adds the rubrics that are not given. Raises InvalidArgument RUBRIC_INVALID, SUBTASK_UNKNOWN."""
    given = [rubric.subtask for rubric in campaign.rubrics]
    for index, rubric in enumerate(campaign.rubrics):
        dimensions = [dimension.name for dimension in rubric.dimensions]
        if given.count(rubric.subtask) > 1 or len(set(dimensions)) < len(dimensions):
            raise invalid(f"campaign.rubrics[{index}]", "is there twice, or names a dimension twice", "RUBRIC_INVALID")
    for subtask in sorted(set(subtasks) - set(given)):
        campaign.rubrics.append(rubrics.form(subtask))


def invalid(field: str, problem: str, reason: str) -> InvalidArgument:
    """What is wrong with a field."""
    return InvalidArgument(f"{field} {problem}", reason=reason, violations=[(field, problem)])
