"""Who holds which seat, and what they have written: functions of a transaction.

A seat is its annotator's until somebody else takes it, which is possible once the lease has run out. What was written
stays the annotator's own, whoever has the seat. Each function locks its annotator first, so that two windows of one
person take turns; that two people do not get one seat, and one person not two seats of an item, the rows themselves see
to.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection

from omnialign.errors import Aborted, FailedPrecondition, InvalidArgument
from omnialign.v1.annotation_pb2 import Annotation
from omnialign.v1.annotation_service_pb2 import Campaign, Task
from services.annotation.sides import is_swapped
from services.annotation.tables import ANNOTATORS, ANSWERS, ITEMS, SEATS

WORDS = {Task.STATE_SUBMITTED: "submitted", Task.STATE_SKIPPED: "skipped", Task.STATE_FLAGGED: "flagged"}
FREE: dict[str, Any] = {"annotator": None, "expires_us": 0}

Insert = Callable[[sa.Table], Any]
"""`Database.insert`."""
Opening = Callable[[Connection, int], bytes]
"""What the annotation of an item begins with, serialized, by the item's number."""


@dataclass(frozen=True)
class Place:
    """A seat of an item."""

    campaign: str
    number: int
    seat: int


@dataclass(frozen=True)
class Writer:
    """An annotator at work, at a moment of the server's clock."""

    annotator: str
    now_us: int


@dataclass(frozen=True)
class Standing:
    """Where an annotator stands with an item."""

    place: Place
    state: "Task.State.ValueType"
    revision: int = 0
    message: bytes = b""
    expires_us: int = 0
    reason: str = ""
    swapped: bool = False
    """Whether the annotator sees the second response first. The message is in the order of the record."""


def empty(connection: Connection, number: int) -> bytes:
    """Begins an annotation with nothing."""
    return b""


def lease(
    connection: Connection, insert: Insert, campaign: Campaign, who: Writer, *, until_us: int, opening: Opening = empty
) -> Standing | None:
    """Gives the annotator the seat that they hold, else one of an item of which they have a draft, else the next.

    `opening` is what an annotation begins with.
    """
    name = campaign.name
    person = {"campaign": name, "annotator": who.annotator}
    connection.execute(insert(ANNOTATORS).values(person).on_conflict_do_nothing())
    _lock(connection, name, who)
    place = _held(connection, name, who) or _free(connection, name, who, drafted=True)
    place = place or _free(connection, name, who, drafted=False)
    if place is None:
        return None
    taken = {"annotator": who.annotator, "expires_us": until_us}
    connection.execute(SEATS.update().where(_at(place)).values(taken))
    answer = _answer(connection, place, who)
    if answer is None:
        message = opening(connection, place.number)
        # The texts of a draft number the responses in the order of the record.
        swapped = not message and is_swapped(campaign, place.number, who.annotator)
        row = _key(place, who) | {"state": Task.STATE_LEASED, "revision": 0, "preferred": 0, "message": message}
        row |= {"reason": "", "request_id": "", "updated_us": who.now_us, "swapped": swapped}
        connection.execute(ANSWERS.insert().values(row))
        return Standing(place, Task.STATE_LEASED, message=message, expires_us=until_us, swapped=swapped)
    return Standing(place, Task.STATE_LEASED, answer.revision, answer.message, until_us, swapped=answer.swapped)


def save(
    connection: Connection,
    place: Place,
    who: Writer,
    annotation: Annotation,
    *,
    revision: int,
    until_us: int,
) -> Standing:
    """Keeps a draft, and renews the lease of whoever still has the seat.

    Raises FailedPrecondition TASK_NOT_LEASED and TASK_DONE, and Aborted DRAFT_STALE.
    """
    _lock(connection, place.campaign, who)
    answer, message = _open_answer(connection, place, who), serialized(annotation)
    is_repeated = revision == answer.revision - 1 and message == answer.message
    if revision != answer.revision and not is_repeated:
        raise _stale(place, revision, answer.revision)
    revision = answer.revision + (not is_repeated)
    has_seat = _change_own_seat(connection, place, who, expires_us=until_us)
    _write(connection, place, who, revision=revision, message=message, preferred=annotation.preferred)
    if not has_seat:
        return Standing(place, Task.STATE_LOST, revision, message, swapped=answer.swapped)
    return Standing(place, Task.STATE_LEASED, revision, message, until_us, swapped=answer.swapped)


def submit(
    connection: Connection,
    place: Place,
    who: Writer,
    annotation: Annotation,
    *,
    revision: int,
    request_id: str,
    is_closed: bool = False,
) -> Standing:
    """Submits once; without the seat, or to a closed campaign, it only keeps the draft, and the answer's state is LOST.

    Raises FailedPrecondition TASK_NOT_LEASED, TASK_DONE and ALREADY_SUBMITTED, InvalidArgument REQUEST_ID_REUSED, and
    Aborted DRAFT_STALE.
    """
    _lock(connection, place.campaign, who)
    answer, message = _answer(connection, place, who), serialized(annotation)
    if answer is not None and answer.state == Task.STATE_SUBMITTED:
        if message != answer.message:
            raise _submitted_before(request_id, is_same_request=bool(request_id) and request_id == answer.request_id)
        return Standing(place, Task.STATE_SUBMITTED, answer.revision, answer.message, swapped=answer.swapped)
    answer = _open_answer(connection, place, who)
    if revision != answer.revision and message != answer.message:
        raise _stale(place, revision, answer.revision)
    has_seat = not is_closed and _change_own_seat(connection, place, who, submitted=True)
    state = Task.STATE_SUBMITTED if has_seat else Task.STATE_LEASED
    values = {"message": message, "preferred": annotation.preferred, "request_id": request_id if has_seat else ""}
    _write(connection, place, who, state=state, revision=answer.revision + 1, **values)
    reached = state if has_seat else Task.STATE_LOST
    return Standing(place, reached, answer.revision + 1, message, swapped=answer.swapped)


def give_up(
    connection: Connection, place: Place, who: Writer, *, state: "Task.State.ValueType", reason: str
) -> Standing:
    """Skips or flags an item, and gives the seat to others. Raises FailedPrecondition TASK_NOT_LEASED, TASK_DONE."""
    _lock(connection, place.campaign, who)
    answer = _answer(connection, place, who)
    if answer is None or answer.state != state:
        answer = _open_answer(connection, place, who)
        _free_own_seats(connection, place, who)
        _write(connection, place, who, state=state, reason=reason)
        if state == Task.STATE_FLAGGED:
            is_item = sa.and_(ITEMS.c.campaign == place.campaign, ITEMS.c.number == place.number)
            connection.execute(ITEMS.update().where(is_item).values(flagged=True))
    else:
        reason = answer.reason
    return Standing(place, state, answer.revision, answer.message, reason=reason, swapped=answer.swapped)


def seen_swapped(connection: Connection, campaign: str, number: int, who: Writer) -> bool | None:
    """Whether the annotator sees the second response of an item first; None for an item that they were never given."""
    row = _answer(connection, Place(campaign, number, 0), who)
    return None if row is None else bool(row.swapped)


def admit(
    connection: Connection,
    insert: Insert,
    campaign: str,
    number: int,
    who: Writer,
    annotation: Annotation,
    *,
    made_us: int,
) -> bool:
    """Submits an annotation that was made elsewhere, in the seat that the annotator holds or in a free one.

    Whether it was new. Raises FailedPrecondition ALREADY_SUBMITTED, TASK_DONE, DRAFT_EXISTS and NO_FREE_SEAT.
    """
    person = {"campaign": campaign, "annotator": who.annotator}
    connection.execute(insert(ANNOTATORS).values(person).on_conflict_do_nothing())
    _lock(connection, campaign, who)
    item, message = Place(campaign, number, 0), serialized(annotation)
    answer = _answer(connection, item, who)
    if answer is not None:
        if answer.state == Task.STATE_SUBMITTED and answer.message == message:
            return False
        _check_untouched(answer, who)
    place = _seat_of(connection, item, who)
    connection.execute(SEATS.update().where(_at(place)).values(annotator=who.annotator, submitted=True))
    values = {"state": Task.STATE_SUBMITTED, "preferred": annotation.preferred, "message": message, "revision": 1}
    values |= {"reason": "", "request_id": "", "updated_us": made_us, "swapped": False}
    if answer is None:
        connection.execute(ANSWERS.insert().values(_key(place, who) | values))
    else:
        connection.execute(ANSWERS.update().where(_is_answer(place, who)).values(values))
    return True


def written(connection: Connection, place: Place, who: Writer) -> Annotation:
    """What the annotator has of an item; nothing for somebody who was never given it."""
    row = _answer(connection, place, who)
    return Annotation() if row is None else Annotation.FromString(row.message)


def count_held_by_others(connection: Connection, campaign: str, who: Writer) -> int:
    """The seats that others hold, of items that the annotator has not finished."""
    query = sa.select(sa.func.count()).select_from(SEATS).where(_unfinished_by(campaign, who))
    held = query.where(SEATS.c.annotator.is_not(None), SEATS.c.expires_us > who.now_us)
    return int(connection.scalar(held) or 0)


def serialized(annotation: Annotation) -> bytes:
    """The bytes by which annotations are compared: equal for equal content."""
    return annotation.SerializeToString(deterministic=True)


def _lock(connection: Connection, campaign: str, who: Writer) -> None:
    """Waits for other transactions of the annotator. Who never leased has no row, and nothing to change either."""
    is_own = sa.and_(ANNOTATORS.c.campaign == campaign, ANNOTATORS.c.annotator == who.annotator)
    connection.execute(sa.select(ANNOTATORS.c.annotator).where(is_own).with_for_update())


def _held(connection: Connection, campaign: str, who: Writer) -> Place | None:
    """The seat that is the annotator's, whether or not its lease has run out."""
    query = sa.select(SEATS.c.number, SEATS.c.seat).where(
        SEATS.c.campaign == campaign, SEATS.c.annotator == who.annotator, sa.not_(SEATS.c.submitted)
    )
    row = connection.execute(query.with_for_update()).first()
    return Place(campaign, row.number, row.seat) if row else None


def _free(connection: Connection, campaign: str, who: Writer, *, drafted: bool) -> Place | None:
    """The first seat that may be taken; with `drafted`, of an item that the annotator has begun."""
    is_item = sa.and_(ITEMS.c.campaign == SEATS.c.campaign, ITEMS.c.number == SEATS.c.number)
    query = sa.select(SEATS.c.number, SEATS.c.seat).join(ITEMS, is_item).where(_unfinished_by(campaign, who))
    query = query.where(sa.not_(ITEMS.c.flagged))
    query = query.where(sa.or_(SEATS.c.annotator.is_(None), SEATS.c.expires_us <= who.now_us))
    if drafted:
        own = sa.select(ANSWERS.c.number).where(
            ANSWERS.c.campaign == campaign,
            ANSWERS.c.annotator == who.annotator,
            ANSWERS.c.state == Task.STATE_LEASED,
        )
        query = query.where(SEATS.c.number.in_(own))
    query = query.order_by(SEATS.c.rank, SEATS.c.number, SEATS.c.seat).limit(1)
    # What somebody else is about to take is passed over.
    row = connection.execute(query.with_for_update(of=SEATS, skip_locked=True)).first()
    return Place(campaign, row.number, row.seat) if row else None


def _seat_of(connection: Connection, item: Place, who: Writer) -> Place:
    """The annotator's own seat of an item, or one that may be taken. Raises FailedPrecondition NO_FREE_SEAT."""
    is_own, is_expired = SEATS.c.annotator == who.annotator, SEATS.c.expires_us <= who.now_us
    query = sa.select(SEATS.c.seat).where(
        SEATS.c.campaign == item.campaign,
        SEATS.c.number == item.number,
        sa.not_(SEATS.c.submitted),
        sa.or_(SEATS.c.annotator.is_(None), is_own, is_expired),
    )
    query = query.order_by(sa.case((is_own, 0), else_=1), SEATS.c.seat).limit(1)
    row = connection.execute(query.with_for_update(skip_locked=True)).first()
    if row is None:
        message = "The pair has all the annotations that the campaign wants of it, or others are at work on it."
        raise FailedPrecondition(message, reason="NO_FREE_SEAT", metadata={"item": str(item.number)})
    return Place(item.campaign, item.number, row.seat)


def _check_untouched(answer: Any, who: Writer) -> None:
    """Raises FailedPrecondition if the annotator has finished the item, or written something about it."""
    if answer.state == Task.STATE_SUBMITTED:
        message = f"{who.annotator} has submitted another annotation of the pair, which is final."
        raise FailedPrecondition(message, reason="ALREADY_SUBMITTED", metadata={"annotator": who.annotator})
    if answer.state != Task.STATE_LEASED:
        word = WORDS[answer.state]
        message = f"{who.annotator} has {word} the pair, which is final."
        raise FailedPrecondition(message, reason="TASK_DONE", metadata={"state": word, "annotator": who.annotator})
    if answer.revision:  # a form may begin with a model's draft, of which the annotator has said nothing yet
        message = f"{who.annotator} has a draft of the pair, which would be lost: let them submit or skip it first."
        raise FailedPrecondition(message, reason="DRAFT_EXISTS", metadata={"annotator": who.annotator})


def _unfinished_by(campaign: str, who: Writer) -> sa.ColumnElement[bool]:
    """Seats that are not submitted, of items that the annotator has neither submitted nor given up."""
    finished = sa.select(ANSWERS.c.number).where(
        ANSWERS.c.campaign == campaign,
        ANSWERS.c.number == SEATS.c.number,
        ANSWERS.c.annotator == who.annotator,
        ANSWERS.c.state != Task.STATE_LEASED,
    )
    return sa.and_(SEATS.c.campaign == campaign, sa.not_(SEATS.c.submitted), ~finished.exists())


def _at(place: Place) -> sa.ColumnElement[bool]:
    return sa.and_(SEATS.c.campaign == place.campaign, SEATS.c.number == place.number, SEATS.c.seat == place.seat)


def _key(place: Place, who: Writer) -> dict[str, Any]:
    return {"campaign": place.campaign, "number": place.number, "annotator": who.annotator}


def _is_answer(place: Place, who: Writer) -> sa.ColumnElement[bool]:
    return sa.and_(*(ANSWERS.c[name] == value for name, value in _key(place, who).items()))


def _answer(connection: Connection, place: Place, who: Writer) -> Any:
    return connection.execute(sa.select(ANSWERS).where(_is_answer(place, who))).first()


def _open_answer(connection: Connection, place: Place, who: Writer) -> Any:
    """The answer of somebody who was given the item and has not finished it."""
    answer = _answer(connection, place, who)
    if answer is None:
        message = f"{who.annotator} was never given this task: ask for one with LeaseTask."
        raise FailedPrecondition(message, reason="TASK_NOT_LEASED", metadata={"annotator": who.annotator})
    if answer.state != Task.STATE_LEASED:
        word = WORDS[answer.state]
        message = f"The task is {word} already, which is final: ask for the next one with LeaseTask."
        raise FailedPrecondition(message, reason="TASK_DONE", metadata={"state": word})
    return answer


def _change_own_seat(connection: Connection, place: Place, who: Writer, **values: Any) -> bool:
    """Whether the annotator has the seat; if so, it is changed."""
    is_own = sa.and_(_at(place), SEATS.c.annotator == who.annotator, sa.not_(SEATS.c.submitted))
    return bool(connection.execute(SEATS.update().where(is_own).values(values)).rowcount)


def _free_own_seats(connection: Connection, place: Place, who: Writer) -> None:
    """Gives up whatever seat of an item the annotator has: an old window may know another one than the present."""
    is_own = sa.and_(SEATS.c.campaign == place.campaign, SEATS.c.number == place.number)
    is_own = sa.and_(is_own, SEATS.c.annotator == who.annotator, sa.not_(SEATS.c.submitted))
    connection.execute(SEATS.update().where(is_own).values(FREE))


def _write(connection: Connection, place: Place, who: Writer, **values: Any) -> None:
    values |= {"updated_us": who.now_us}
    connection.execute(ANSWERS.update().where(_is_answer(place, who)).values(values))


def _stale(place: Place, given: int, current: int) -> Aborted:
    return Aborted(
        f"The draft is at revision {current} and this goes on from {given}, so another window has saved since: load "
        "the task again with LeaseTask.",
        reason="DRAFT_STALE",
        metadata={"revision": str(current), "given": str(given), "item": str(place.number)},
    )


def _submitted_before(request_id: str, *, is_same_request: bool) -> FailedPrecondition | InvalidArgument:
    if is_same_request:
        return InvalidArgument(
            f"request_id '{request_id}' was used before with another annotation; use a new one",
            reason="REQUEST_ID_REUSED",
            metadata={"request_id": request_id},
            violations=[("request_id", "was used before with another annotation")],
        )
    message = "The task was submitted with another annotation, which is final: ask for the next one with LeaseTask."
    return FailedPrecondition(message, reason="ALREADY_SUBMITTED")
