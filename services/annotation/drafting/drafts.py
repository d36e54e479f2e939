"""What models say of a campaign's items, kept beside what people say."""

import hashlib
from collections.abc import Callable, Mapping, Sequence

import sqlalchemy as sa
from sqlalchemy import Connection

from omnialign.annotation_parts import parts_of
from omnialign.errors import NotFound
from omnialign.v1.annotation_pb2 import ModelDraft
from services.annotation.tables import CAMPAIGNS, DRAFTS, ITEMS
from services.runtime.database import Database


class Drafts:
    """The only writer of the table."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def put(self, campaign: str, drafts: Mapping[str, ModelDraft]) -> None:
        """Keeps what a model says of items, by the ids of their records; it replaces what the same model said before.

        Raises NotFound CAMPAIGN_NOT_FOUND.
        """

        def write(connection: Connection) -> None:
            if connection.execute(sa.select(CAMPAIGNS.c.name).where(CAMPAIGNS.c.name == campaign)).first() is None:
                message = f"{campaign} was deleted while a model drafted its annotations"
                raise NotFound(message, reason="CAMPAIGN_NOT_FOUND", metadata={"name": campaign})
            is_wanted = sa.and_(ITEMS.c.campaign == campaign, ITEMS.c.record.in_(list(drafts)))
            items = connection.execute(sa.select(ITEMS.c.record, ITEMS.c.number).where(is_wanted))
            rows = [_row(campaign, item.number, drafts[item.record]) for item in items]
            insert = self._database.insert(DRAFTS)
            new = {name: insert.excluded[name] for name in ("drafted_us", "message")}
            connection.execute(insert.on_conflict_do_update(index_elements=list(DRAFTS.primary_key), set_=new), rows)

        if drafts:
            await self._database.write(write)

    async def of(
        self, campaign: str, *, numbers: Sequence[int] | None = None, model: str = ""
    ) -> dict[int, list[ModelDraft]]:
        """What models say, in the order in which they said it, by item; of some items or all, of a model or all."""
        query = sa.select(DRAFTS.c.number, DRAFTS.c.message).where(DRAFTS.c.campaign == campaign)
        if numbers is not None:
            query = query.where(DRAFTS.c.number.in_(numbers))
        if model:
            query = query.where(DRAFTS.c.model_sha256 == _sha256(model))
        found = dict[int, list[ModelDraft]]()
        for row in await self._database.all(query.order_by(DRAFTS.c.drafted_us, DRAFTS.c.model_sha256)):
            found.setdefault(row.number, []).append(ModelDraft.FromString(row.message))
        return found

    def opening(self, campaign: str, model: str) -> Callable[[Connection, int], bytes]:
        """What an annotation of an item begins with, in a transaction: the model's draft; nothing without one."""

        def begin(connection: Connection, number: int) -> bytes:
            key = (DRAFTS.c.campaign == campaign, DRAFTS.c.number == number, DRAFTS.c.model_sha256 == _sha256(model))
            row = connection.execute(sa.select(DRAFTS.c.message).where(*key)).first()
            draft = ModelDraft() if row is None else ModelDraft.FromString(row.message)
            if not parts_of(draft.annotation):
                return b""
            draft.annotation.draft_model = model
            return draft.annotation.SerializeToString(deterministic=True)

        return begin

    async def missing(self, campaign: str, *, model: str) -> list[tuple[str, str]]:
        """(record id, subtask) of the items that a model has not said anything of, in order."""
        is_of_item = sa.and_(DRAFTS.c.campaign == ITEMS.c.campaign, DRAFTS.c.number == ITEMS.c.number)
        own = sa.select(DRAFTS.c.number).where(is_of_item, DRAFTS.c.model_sha256 == _sha256(model))
        query = sa.select(ITEMS.c.record, ITEMS.c.subtask).where(ITEMS.c.campaign == campaign, ~own.exists())
        return [(row.record, row.subtask) for row in await self._database.all(query.order_by(ITEMS.c.number))]


def _row(campaign: str, number: int, draft: ModelDraft) -> dict[str, object]:
    return {
        "campaign": campaign,
        "number": number,
        "model_sha256": _sha256(draft.model),
        "drafted_us": draft.draft_time.ToMicroseconds(),
        "message": draft.SerializeToString(),
    }


def _sha256(model: str) -> str:
    return hashlib.sha256(model.encode()).hexdigest()
