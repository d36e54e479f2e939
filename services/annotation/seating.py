"""How many seats the pairs of a campaign have, and in which order they are given out: functions of a transaction."""

from collections.abc import Iterator, Sequence
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from services.annotation.seats import FREE
from services.annotation.tables import ITEMS, SEATS

NUMBERS_AT_ONCE = 1000


def free_seats_of_others(connection: Connection, campaign: str, annotators: Sequence[str]) -> None:
    """Takes the seats that are not submitted from those who are no annotators any more; their drafts stay."""
    is_taken = sa.and_(SEATS.c.campaign == campaign, sa.not_(SEATS.c.submitted), SEATS.c.annotator.is_not(None))
    connection.execute(SEATS.update().where(is_taken, SEATS.c.annotator.not_in(list(annotators))).values(FREE))


def resize(connection: Connection, campaign: str, wanted: int, wanted_of_quality: int, *, now_us: int) -> None:
    """Gives each item as many seats as are wanted; one that is submitted or held stays, also if those are more."""
    _remove_surplus(connection, campaign, wanted, wanted_of_quality, now_us=now_us)
    rows = list(_lacking(connection, campaign, wanted, wanted_of_quality))
    for start in range(0, len(rows), NUMBERS_AT_ONCE):
        connection.execute(SEATS.insert(), rows[start : start + NUMBERS_AT_ONCE])
    is_of_item = sa.and_(SEATS.c.campaign == ITEMS.c.campaign, SEATS.c.number == ITEMS.c.number)
    count = sa.select(sa.func.count()).select_from(SEATS).where(is_of_item).correlate(ITEMS).scalar_subquery()
    connection.execute(ITEMS.update().where(ITEMS.c.campaign == campaign).values(num_seats=count))


def rank(connection: Connection, campaign: str, ranks: Sequence[int]) -> None:
    """Changes the places of the items, which are in order of their numbers."""
    numbers = dict[int, list[int]]()
    for number, place in enumerate(ranks, start=1):
        numbers.setdefault(place, []).append(number)
    for place, found in numbers.items():
        for start in range(0, len(found), NUMBERS_AT_ONCE):
            some = SEATS.c.number.in_(found[start : start + NUMBERS_AT_ONCE])
            connection.execute(SEATS.update().where(SEATS.c.campaign == campaign, some).values(rank=place))


def _remove_surplus(connection: Connection, campaign: str, wanted: int, wanted_of_quality: int, *, now_us: int) -> None:
    is_held = sa.and_(SEATS.c.annotator.is_not(None), SEATS.c.expires_us > now_us)
    is_free = sa.not_(sa.or_(SEATS.c.submitted, is_held))
    order = sa.func.row_number().over(partition_by=SEATS.c.number, order_by=(is_free, SEATS.c.seat))
    placed = (
        sa.select(SEATS.c.number, SEATS.c.seat, order.label("place")).where(SEATS.c.campaign == campaign).subquery()
    )
    most = sa.case((ITEMS.c.known > 0, wanted_of_quality), else_=wanted)
    is_item = sa.and_(ITEMS.c.campaign == campaign, ITEMS.c.number == placed.c.number)
    surplus = sa.select(placed.c.number, placed.c.seat).join(ITEMS, is_item).where(placed.c.place > most)
    # `is_free` again: on PostgreSQL a seat may be taken between the query and the removal.
    is_surplus = sa.tuple_(SEATS.c.number, SEATS.c.seat).in_(surplus)
    connection.execute(SEATS.delete().where(SEATS.c.campaign == campaign, is_surplus, is_free))


def _lacking(connection: Connection, campaign: str, wanted: int, wanted_of_quality: int) -> Iterator[dict[str, Any]]:
    """Rows of the seats that are to be added."""
    is_item = sa.and_(ITEMS.c.campaign == SEATS.c.campaign, ITEMS.c.number == SEATS.c.number)
    count, last = sa.func.count(), sa.func.max(SEATS.c.seat)
    most = sa.case((sa.func.max(ITEMS.c.known) > 0, wanted_of_quality), else_=wanted)
    query = sa.select(SEATS.c.number, count.label("num"), last.label("last"), sa.func.max(SEATS.c.rank).label("rank"))
    query = query.join(ITEMS, is_item).where(SEATS.c.campaign == campaign)
    query = query.group_by(SEATS.c.number).having(count < most).add_columns(most.label("most"))
    for row in connection.execute(query).all():
        for seat in range(row.last + 1, row.last + 1 + row.most - row.num):
            place = {"campaign": campaign, "number": row.number, "seat": seat, "rank": row.rank}
            yield place | {"annotator": None, "expires_us": 0, "submitted": False}
