"""Campaigns, their items and what was answered, in SQL. The seats have a module of their own."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from omnialign.errors import AlreadyExists, NotFound
from omnialign.v1.annotation_pb2 import Annotation, ModelDraft
from omnialign.v1.annotation_service_pb2 import (
    Adjudication,
    Answer,
    Campaign,
    CampaignProgress,
    CreateCampaignRequest,
    Item,
    ListItemsRequest,
    Task,
)
from services.annotation.form import Shape
from services.annotation.tables import ANNOTATORS, ANSWERS, CAMPAIGNS, DRAFTS, ITEMS, SEATS
from services.runtime.database import Database
from services.runtime.requests import body_digest, check_same_body

T = TypeVar("T")

ROWS_AT_ONCE = 1000
FINAL = (Task.STATE_SUBMITTED, Task.STATE_SKIPPED, Task.STATE_FLAGGED)


@dataclass(frozen=True)
class NewItem:
    """A pair of a campaign that is made."""

    record: str
    subtask: str
    shape: Shape
    rank: int
    """Its place among the priorities; the least comes first."""
    num_seats: int
    known: int = 0
    """The known answer of a quality item, 1 or 2; 0 for other items."""


@dataclass(frozen=True)
class Entry:
    """An item without its answers."""

    campaign: str
    number: int
    record: str
    subtask: str
    shape: Shape
    known: int
    num_seats: int
    flagged: bool
    adjudication: Adjudication | None

    @property
    def name(self) -> str:
        """Its resource name."""
        return f"{self.campaign}/items/{self.number}"


class Store:
    """The only writer of the tables."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.insert = database.insert

    async def write(self, transaction: Callable[[Connection], T]) -> T:
        """The result of a transaction on the tables, such as those of `seats`."""
        return await self._database.write(transaction)

    async def read(self, query: Callable[[Connection], T]) -> T:
        """The result of a function that only reads."""
        return await self._database.read(query)

    async def made_by(self, request: CreateCampaignRequest) -> Campaign | None:
        """The campaign that this request made earlier. Raises InvalidArgument REQUEST_ID_REUSED."""
        if not request.request_id:
            return None
        row = await self._database.first(sa.select(CAMPAIGNS).where(CAMPAIGNS.c.request == _key(request)))
        if row is None:
            return None
        check_same_body(row.digest, request, request_id=request.request_id)
        return await self.get(row.name)

    async def create(
        self, campaign: Campaign, request: CreateCampaignRequest, items: Sequence[NewItem], *, left_out_count: int
    ) -> Campaign:
        """Adds a campaign with its seats. Raises AlreadyExists CAMPAIGN_EXISTS, InvalidArgument REQUEST_ID_REUSED."""
        row = {
            "name": campaign.name,
            "parent": request.parent,
            "created_us": campaign.create_time.ToMicroseconds(),
            "request": _key(request) if request.request_id else None,
            "digest": body_digest(request),
            "left_out_count": left_out_count,
            "message": campaign.SerializeToString(),
        }

        def add(connection: Connection) -> None:
            connection.execute(CAMPAIGNS.insert().values(row))
            for start in range(0, len(items), ROWS_AT_ONCE):
                part = list(enumerate(items[start : start + ROWS_AT_ONCE], start=start + 1))
                connection.execute(ITEMS.insert(), [_item_row(campaign.name, number, item) for number, item in part])
                seats = [seat for number, item in part for seat in _seat_rows(campaign.name, number, item)]
                connection.execute(SEATS.insert(), seats)

        try:
            await self._database.write(add)
        except IntegrityError as error:
            # Another call was faster; if it was a repetition of this one, its campaign is the answer.
            if (made := await self.made_by(request)) is not None:
                return made
            raise AlreadyExists(
                f"{campaign.name} exists; choose another id.",
                reason="CAMPAIGN_EXISTS",
                metadata={"name": campaign.name},
            ) from error
        return await self.get(campaign.name)

    async def campaign(self, name: str) -> Campaign:
        """A campaign without its progress. Raises NotFound CAMPAIGN_NOT_FOUND."""
        return await self._database.read(lambda connection: _read_campaign(connection, name))

    async def get(self, name: str, *, now_us: int = 0) -> Campaign:
        """A campaign with its progress. Raises NotFound CAMPAIGN_NOT_FOUND."""
        campaign = await self.campaign(name)
        campaign.progress.CopyFrom(await self._database.read(lambda c: _progress(c, name, now_us=now_us)))
        return campaign

    async def page(self, parent: str, *, after: Sequence[str], limit: int) -> list[Campaign]:
        """Campaigns without their progress, from newest to oldest, after the (created_us, name) that was seen last."""
        query = sa.select(CAMPAIGNS.c.message).where(CAMPAIGNS.c.parent == parent)
        if after:
            created, name = int(after[0]), after[1]
            older = sa.and_(CAMPAIGNS.c.created_us == created, CAMPAIGNS.c.name < name)
            query = query.where(sa.or_(CAMPAIGNS.c.created_us < created, older))
        query = query.order_by(CAMPAIGNS.c.created_us.desc(), CAMPAIGNS.c.name.desc()).limit(limit)
        return [_campaign(row) for row in await self._database.all(query)]

    async def all(self) -> dict[str, tuple[Campaign]]:
        """All campaigns of all projects, without their progress, by name."""
        rows = await self._database.all(sa.select(CAMPAIGNS.c.name, CAMPAIGNS.c.message))
        return {row.name: (_campaign(row),) for row in rows}

    async def change(self, name: str, change: Callable[[Connection, Campaign], None]) -> None:
        """Changes a campaign, and in the same transaction what `change` does besides. Raises NotFound."""

        def write(connection: Connection) -> None:
            campaign = _read_campaign(connection, name, lock=True)
            change(connection, campaign)
            message = campaign.SerializeToString()
            connection.execute(CAMPAIGNS.update().where(CAMPAIGNS.c.name == name).values(message=message))

        await self._database.write(write)

    async def delete(self, name: str) -> None:
        """Deletes a campaign with everything in it. Raises NotFound CAMPAIGN_NOT_FOUND."""
        await self.campaign(name)

        def remove(connection: Connection) -> None:
            for table in (DRAFTS, ANSWERS, ANNOTATORS, SEATS, ITEMS):
                connection.execute(table.delete().where(table.c.campaign == name))
            connection.execute(CAMPAIGNS.delete().where(CAMPAIGNS.c.name == name))

        await self._database.write(remove)

    async def entry(self, campaign: str, number: int) -> Entry:
        """An item. Raises NotFound ITEM_NOT_FOUND."""
        return await self._database.read(lambda connection: _read_entry(connection, campaign, number))

    async def campaign_and_entry(self, campaign: str, number: int) -> tuple[Campaign, Entry]:
        """A campaign without its progress, and an item of it. Raises NotFound CAMPAIGN_NOT_FOUND, ITEM_NOT_FOUND."""
        return await self._database.read(
            lambda connection: (_read_campaign(connection, campaign), _read_entry(connection, campaign, number))
        )

    async def entries(
        self,
        campaign: str,
        *,
        after: int = 0,
        limit: int | None = None,
        which: int = 0,
    ) -> list[Entry]:
        """Items with numbers above `after`, in order; `which` is a `ListItemsRequest.Filter`, 0 is all of them."""
        query = sa.select(ITEMS).where(ITEMS.c.campaign == campaign, ITEMS.c.number > after, _FILTERS[which]())
        rows = await self._database.all(query.order_by(ITEMS.c.number).limit(limit))
        return [_entry(row) for row in rows]

    async def answers(self, campaign: str, *, numbers: Sequence[int] | None = None) -> dict[int, list[Answer]]:
        """The final answers by item, in the order in which they came; of some items, or of all."""
        query = sa.select(ANSWERS).where(ANSWERS.c.campaign == campaign, ANSWERS.c.state.in_(FINAL))
        if numbers is not None:
            query = query.where(ANSWERS.c.number.in_(numbers))
        found = dict[int, list[Answer]]()
        for row in await self._database.all(query.order_by(ANSWERS.c.updated_us, ANSWERS.c.annotator)):
            found.setdefault(row.number, []).append(_answer(row))
        return found

    async def numbered(self, campaign: str, numbers: Sequence[int]) -> dict[int, Entry]:
        """The items with these numbers, as far as there are any."""
        query = sa.select(ITEMS).where(ITEMS.c.campaign == campaign, ITEMS.c.number.in_(numbers))
        return {row.number: _entry(row) for row in await self._database.all(query)}

    async def adjudicate(self, entry: Entry, adjudication: Adjudication) -> None:
        """Notes a decision; it replaces an earlier one."""
        is_item = sa.and_(ITEMS.c.campaign == entry.campaign, ITEMS.c.number == entry.number)
        change = ITEMS.update().where(is_item).values(adjudication=adjudication.SerializeToString())
        await self._database.write(lambda connection: connection.execute(change).rowcount)


def item_message(entry: Entry, answers: Iterable[Answer], drafts: Iterable[ModelDraft] = ()) -> Item:
    """An item with its answers, and with what models say of it."""
    item = Item(
        name=entry.name,
        record_id=entry.record,
        subtask=entry.subtask,
        quality_item=bool(entry.known),
        known_preferred=entry.known,
        flagged=entry.flagged,
        answers=answers,
        drafts=drafts,
    )
    if entry.adjudication is not None:
        item.adjudication.CopyFrom(entry.adjudication)
    return item


def _read_campaign(connection: Connection, name: str, *, lock: bool = False) -> Campaign:
    query = sa.select(CAMPAIGNS.c.message).where(CAMPAIGNS.c.name == name)
    row = connection.execute(query.with_for_update() if lock else query).first()
    if row is None:
        raise NotFound(f"{name} does not exist", reason="CAMPAIGN_NOT_FOUND", metadata={"name": name})
    return _campaign(row)


def _campaign(row: Any) -> Campaign:
    campaign = Campaign.FromString(row.message)
    campaign.state = campaign.state or Campaign.STATE_OPEN  # one that is older than the field
    return campaign


def _read_entry(connection: Connection, campaign: str, number: int) -> Entry:
    is_item = sa.and_(ITEMS.c.campaign == campaign, ITEMS.c.number == number)
    row = connection.execute(sa.select(ITEMS).where(is_item)).first()
    if row is None:
        message = f"{campaign} has no item {number}"
        raise NotFound(message, reason="ITEM_NOT_FOUND", metadata={"campaign": campaign, "item": str(number)})
    return _entry(row)


def _key(request: CreateCampaignRequest) -> str:
    return f"{request.parent}/{request.request_id}"


def _item_row(campaign: str, number: int, item: NewItem) -> dict[str, Any]:
    return {
        "campaign": campaign,
        "number": number,
        "record": item.record,
        "subtask": item.subtask,
        "shape": str(item.shape),
        "known": item.known,
        "num_seats": item.num_seats,
        "flagged": False,
        "adjudication": None,
    }


def _seat_rows(campaign: str, number: int, item: NewItem) -> Iterable[dict[str, Any]]:
    for seat in range(1, item.num_seats + 1):
        place = {"campaign": campaign, "number": number, "seat": seat, "rank": item.rank}
        yield place | {"annotator": None, "expires_us": 0, "submitted": False}


def _entry(row: Any) -> Entry:
    return Entry(
        campaign=row.campaign,
        number=row.number,
        record=row.record,
        subtask=row.subtask,
        shape=Shape.read(row.shape),
        known=row.known,
        num_seats=row.num_seats,
        flagged=row.flagged,
        adjudication=None if row.adjudication is None else Adjudication.FromString(row.adjudication),
    )


def _answer(row: Any) -> Answer:
    answer = Answer(annotator=row.annotator, state=row.state, reason=row.reason, swapped=row.swapped)
    if row.state == Task.STATE_SUBMITTED:
        answer.annotation.CopyFrom(Annotation.FromString(row.message))
    answer.answer_time.FromMicroseconds(row.updated_us)
    return answer


def _disagreed() -> sa.ColumnElement[bool]:
    """Whether the annotators of an item prefer different responses."""
    query = sa.select(ANSWERS.c.campaign).where(
        ANSWERS.c.campaign == ITEMS.c.campaign,
        ANSWERS.c.number == ITEMS.c.number,
        ANSWERS.c.state == Task.STATE_SUBMITTED,
    )
    query = query.group_by(ANSWERS.c.campaign, ANSWERS.c.number)
    query = query.having(sa.func.min(ANSWERS.c.preferred) < sa.func.max(ANSWERS.c.preferred))
    return sa.and_(ITEMS.c.adjudication.is_(None), query.correlate(ITEMS).exists())


def _answered() -> sa.ColumnElement[bool]:
    is_of_item = sa.and_(ANSWERS.c.campaign == ITEMS.c.campaign, ANSWERS.c.number == ITEMS.c.number)
    return sa.select(ANSWERS.c.campaign).where(is_of_item, ANSWERS.c.state.in_(FINAL)).correlate(ITEMS).exists()


def _flagged() -> sa.ColumnElement[bool]:
    return sa.and_(ITEMS.c.flagged, ITEMS.c.adjudication.is_(None))


_FILTERS: dict[int, Callable[[], sa.ColumnElement[bool]]] = {
    ListItemsRequest.FILTER_UNSPECIFIED: sa.true,
    ListItemsRequest.FILTER_ANSWERED: _answered,
    ListItemsRequest.FILTER_DISAGREEMENTS: _disagreed,
    ListItemsRequest.FILTER_FLAGGED: _flagged,
    ListItemsRequest.FILTER_ADJUDICATED: lambda: ITEMS.c.adjudication.is_not(None),
}


def _progress(connection: Connection, name: str, *, now_us: int) -> CampaignProgress:
    def count(table: sa.Table, *conditions: sa.ColumnElement[bool]) -> int:
        query = sa.select(sa.func.count()).select_from(table).where(table.c.campaign == name, *conditions)
        return int(connection.scalar(query) or 0)

    left_out = connection.scalar(sa.select(CAMPAIGNS.c.left_out_count).where(CAMPAIGNS.c.name == name))
    is_open = sa.and_(sa.not_(SEATS.c.submitted), SEATS.c.annotator.is_not(None), SEATS.c.expires_us > now_us)
    return CampaignProgress(
        item_count=count(ITEMS),
        quality_item_count=count(ITEMS, ITEMS.c.known > 0),
        left_out_count=int(left_out or 0),
        seat_count=count(SEATS),
        leased_count=count(SEATS, is_open),
        submitted_count=count(SEATS, SEATS.c.submitted),
        skipped_count=count(ANSWERS, ANSWERS.c.state == Task.STATE_SKIPPED),
        flagged_count=count(ITEMS, _flagged()),
        disagreement_count=count(ITEMS, _disagreed()),
        adjudicated_count=count(ITEMS, ITEMS.c.adjudication.is_not(None)),
    )
