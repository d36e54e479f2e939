"""Seats under every order of leases, drafts, submissions and time-outs, against a model of who has what."""

import sqlalchemy as sa
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from sqlalchemy.dialects import sqlite

from omnialign.errors import OmnialignError
from omnialign.v1.annotation_pb2 import Annotation
from omnialign.v1.annotation_service_pb2 import Campaign, Task
from services.annotation import seats
from services.annotation.seats import Standing, Writer
from services.annotation.tables import ITEMS, METADATA, SEATS

CAMPAIGN, ITEM_COUNT, OVERLAP, LEASE_US = "projects/p/campaigns/c", 2, 2, 100
PEOPLE = ("ann", "bob", "cas")
people = st.sampled_from(PEOPLE)
texts = st.sampled_from(["", "one", "two"])


class Seats(RuleBasedStateMachine):
    """Three people, two items, two seats each."""

    def __init__(self) -> None:
        super().__init__()
        engine = sa.create_engine("sqlite://")
        METADATA.create_all(engine)
        self.connection = engine.connect()
        item = {"campaign": CAMPAIGN, "subtask": "t2t", "shape": "t>t>t", "known": 0, "num_seats": OVERLAP}
        numbers = range(1, ITEM_COUNT + 1)
        self.connection.execute(
            ITEMS.insert(), [item | {"number": n, "record": f"{n}", "flagged": False} for n in numbers]
        )
        free = {"campaign": CAMPAIGN, "rank": 0, "annotator": None, "expires_us": 0, "submitted": False}
        places = [(n, seat) for n in numbers for seat in range(1, OVERLAP + 1)]
        self.connection.execute(SEATS.insert(), [free | {"number": n, "seat": seat} for n, seat in places])
        self.now_us = 1000
        self.holder: dict[tuple[int, int], str] = {}
        self.expires: dict[tuple[int, int], int] = {}
        self.windows: dict[str, list[Standing]] = {person: [] for person in PEOPLE}
        """Every answer that a person has seen: what a window of theirs may go on from."""
        self.drafts: dict[tuple[str, int], str] = {}
        self.submitted: dict[tuple[str, int], str] = {}
        self.given_up: set[tuple[str, int]] = set()
        self.flagged: set[int] = set()

    def writer(self, person: str) -> Writer:
        return Writer(person, self.now_us)

    @rule(microseconds=st.sampled_from([1, LEASE_US // 2, LEASE_US, 3 * LEASE_US]))
    def wait(self, microseconds: int) -> None:
        self.now_us += microseconds

    @rule(person=people)
    def lease(self, person: str) -> None:
        own = [
            place for place, holder in self.holder.items() if holder == person and not self.is_done(person, place[0])
        ]
        until_us = self.now_us + LEASE_US
        found = seats.lease(
            self.connection, sqlite.insert, Campaign(name=CAMPAIGN), self.writer(person), until_us=until_us
        )
        free = [
            (n, seat)
            for n in range(1, ITEM_COUNT + 1)
            for seat in range(1, OVERLAP + 1)
            if not self.is_done(person, n) and n not in self.flagged and self.is_free((n, seat))
        ]
        if found is None:
            assert not own and not free
            return
        place = (found.place.number, found.place.seat)
        assert place in (own or free)
        assert Annotation.FromString(found.message).reason == self.drafts.get((person, place[0]), "")
        if not own and (drafted := [one for one in free if (person, one[0]) in self.drafts]):
            assert place in drafted
        self.holder[place], self.expires[place] = person, until_us
        self.drafts.setdefault((person, place[0]), "")
        self.windows[person].append(found)

    @precondition(lambda self: any(self.windows.values()))
    @rule(data=st.data(), text=texts)
    def save(self, data: st.DataObject, text: str) -> None:
        person, seen = self.a_window(data)
        until_us, before = self.now_us + LEASE_US, self.current(person, seen)
        try:
            found = seats.save(
                self.connection,
                seen.place,
                self.writer(person),
                Annotation(reason=text),
                revision=seen.revision,
                until_us=until_us,
            )
        except OmnialignError as error:
            self.must_be_refused(error, person, seen, text)
            return
        place = (seen.place.number, seen.place.seat)
        assert found.state == (Task.STATE_LEASED if self.holder.get(place) == person else Task.STATE_LOST)
        assert seen.revision == before or (seen.revision == before - 1 and text == self.drafts[person, place[0]])
        if found.state == Task.STATE_LEASED:
            self.expires[place] = until_us
        self.drafts[person, place[0]] = text
        self.windows[person].append(found)

    @precondition(lambda self: any(self.windows.values()))
    @rule(data=st.data(), text=texts)
    def submit(self, data: st.DataObject, text: str) -> None:
        person, seen = self.a_window(data)
        key = (person, seen.place.number)
        try:
            found = seats.submit(
                self.connection,
                seen.place,
                self.writer(person),
                Annotation(reason=text),
                revision=seen.revision,
                request_id="",
            )
        except OmnialignError as error:
            if error.reason == "ALREADY_SUBMITTED":
                assert self.submitted[key] != text
            else:
                self.must_be_refused(error, person, seen, text)
            return
        if key in self.submitted:
            assert self.submitted[key] == text
            return
        if found.state == Task.STATE_SUBMITTED:
            assert self.holder.get((seen.place.number, seen.place.seat)) == person
            self.submitted[key] = text
        else:
            assert self.holder.get((seen.place.number, seen.place.seat)) != person
        self.drafts[key] = text
        self.windows[person].append(found)

    @precondition(lambda self: any(self.windows.values()))
    @rule(data=st.data(), state=st.sampled_from([Task.STATE_SKIPPED, Task.STATE_FLAGGED]))
    def give_up(self, data: st.DataObject, state: int) -> None:
        person, seen = self.a_window(data)
        key = (person, seen.place.number)
        was_done = self.is_done(*key)
        try:
            seats.give_up(self.connection, seen.place, self.writer(person), state=state, reason="because")
        except OmnialignError as error:
            assert error.reason == "TASK_DONE" and was_done
            return
        self.given_up.add(key)
        if state == Task.STATE_FLAGGED:
            self.flagged.add(seen.place.number)
        for place in [one for one, holder in self.holder.items() if holder == person and one[0] == key[1]]:
            del self.holder[place]

    @invariant()
    def the_rows_say_what_the_model_says(self) -> None:
        rows = self.connection.execute(sa.select(SEATS)).all()
        assert {(r.number, r.seat): r.annotator for r in rows if r.annotator} == self.holder
        taken = [(r.annotator, r.number) for r in rows if r.submitted]
        assert len(taken) == len(set(taken))
        assert set(taken) == set(self.submitted)

    def a_window(self, data: st.DataObject) -> tuple[str, Standing]:
        return data.draw(st.sampled_from([(person, seen) for person in PEOPLE for seen in self.windows[person]]))

    def is_free(self, place: tuple[int, int]) -> bool:
        holder = self.holder.get(place)
        return holder is None or ((holder, place[0]) not in self.submitted and self.expires[place] <= self.now_us)

    def is_done(self, person: str, number: int) -> bool:
        return (person, number) in self.submitted or (person, number) in self.given_up

    def current(self, person: str, seen: Standing) -> int:
        return max(one.revision for one in self.windows[person] if one.place.number == seen.place.number)

    def must_be_refused(self, error: OmnialignError, person: str, seen: Standing, text: str) -> None:
        if error.reason == "TASK_DONE":
            assert self.is_done(person, seen.place.number)
        else:
            assert error.reason == "DRAFT_STALE"
            assert seen.revision != self.current(person, seen)

    def teardown(self) -> None:
        self.connection.close()


Seats.TestCase.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)
TestSeats = Seats.TestCase
