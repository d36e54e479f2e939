"""Persistence of alignment jobs. SQLite on a laptop, PostgreSQL in a cluster; no decisions are made here.

Each change of a job is one transaction that reads it under a lock, changes it, and writes the event beside it, so
that events have no gaps and watchers miss nothing.
"""

import contextlib
import copy
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from google.rpc import status_pb2
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from omnialign.errors import AlreadyExists, NotFound, OmnialignError, from_status, to_status
from omnialign.v1 import alignment_service_pb2
from services.alignment import schema
from services.alignment.counts import Counts
from services.alignment.news import News
from services.runtime.database import Database
from services.runtime.migrations import Migrations

Job = alignment_service_pb2.AlignmentJob
Spec = alignment_service_pb2.AlignmentSpec
Event = alignment_service_pb2.WatchAlignmentJobResponse

Change = Callable[[Job], str | None]
"""Edits a job and returns the sentence of the event to record; None leaves all as it was.

It is called in another thread, and again when the transaction is repeated: it does nothing but that."""

ENDED = (Job.STATE_SUCCEEDED, Job.STATE_FAILED, Job.STATE_CANCELLED)
MIGRATIONS = Migrations("alignment", Path(__file__).parent / "migrations", witness="alignment_jobs")
REPORT_PIECE_BYTES = 256 * 1024


@dataclass(frozen=True)
class Ledger:
    """What is known of a chunk: its records, the steps that are `done`, and whether one was begun before."""

    record_ids: tuple[str, ...]
    done: frozenset[str]
    is_repeated: bool


@dataclass(frozen=True)
class StepDone:
    """What a step of a chunk committed."""

    uid: str
    phase: str
    step: str
    number: int
    counts: Counts


class Store:
    """The jobs and what is known of their progress. `news` tells of what changed in this process."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.news = News()

    async def prepare(self) -> None:
        """Sees to it that the tables are up to date. Raises FailedPrecondition (`SCHEMA_OUTDATED`)."""
        await MIGRATIONS.prepare(self._database)

    def patient(self, *, budget_seconds: float) -> "Store":
        """The same store for work in the background: it waits so long for a database that is away."""
        view = copy.copy(self)
        view._database = self._database.patient(budget_seconds=budget_seconds)
        return view

    async def close(self) -> None:
        """Closes the connections."""
        await self._database.close()

    # ---- jobs ----

    async def insert(self, job: Job, *, plan: Spec, request_id: str, digest: str) -> None:
        """Stores a new job with its first event. Raises AlreadyExists (`JOB_EXISTS`) when its name is taken."""
        row = {
            "uid": job.uid,
            "name": job.name,
            "parent": job.name.partition("/alignmentJobs/")[0],
            "state": job.state,
            "job": job.SerializeToString(),
            "plan": plan.SerializeToString(),
            "request_id": request_id or None,
            "digest": digest,
            "created": time.time_ns(),
            "last_sequence": 1,
        }

        def add(connection: Connection) -> None:
            connection.execute(sa.insert(schema.jobs).values(row))
            connection.execute(sa.insert(schema.events).values(_event(job, sequence=1, message="Accepted.")))

        try:
            await self._database.write(add, then=lambda _: self.news.changed.give())
        except IntegrityError as error:
            message = f"the alignment job '{job.name}' exists already; choose another id"
            raise AlreadyExists(message, reason="JOB_EXISTS", metadata={"name": job.name}) from error

    async def find_request(self, parent: str, request_id: str) -> tuple[Job, str] | None:
        """The job that a request id made in a project, with the digest of that request; None if there is none."""
        row = await self._first(
            sa.select(schema.jobs.c.job, schema.jobs.c.digest).where(
                schema.jobs.c.parent == parent, schema.jobs.c.request_id == request_id
            )
        )
        return (Job.FromString(row.job), row.digest) if row else None

    async def get(self, name: str) -> Job:
        """The job of this name. Raises NotFound (`JOB_NOT_FOUND`)."""
        row = await self._first(sa.select(schema.jobs.c.job).where(schema.jobs.c.name == name))
        if row is None:
            message = f"there is no alignment job '{name}'"
            raise NotFound(message, reason="JOB_NOT_FOUND", metadata={"name": name})
        return Job.FromString(row.job)

    async def load(self, uid: str) -> tuple[Job, Spec]:
        """The job of this uid and its plan. Raises NotFound (`JOB_NOT_FOUND`)."""
        row = await self._first(sa.select(schema.jobs.c.job, schema.jobs.c.plan).where(schema.jobs.c.uid == uid))
        if row is None:
            raise NotFound(f"there is no alignment job with uid '{uid}'", reason="JOB_NOT_FOUND", metadata={"uid": uid})
        return Job.FromString(row.job), Spec.FromString(row.plan)

    async def page(self, parent: str, *, before: tuple[int, str] | None, limit: int) -> list[tuple[int, Job]]:
        """Jobs of a project, newest first, with their sort keys; `before` is the (key, uid) of the last one seen."""
        query = sa.select(schema.jobs.c.created, schema.jobs.c.job).where(schema.jobs.c.parent == parent)
        if before is not None:
            query = query.where(sa.tuple_(schema.jobs.c.created, schema.jobs.c.uid) < sa.tuple_(*before))
        query = query.order_by(schema.jobs.c.created.desc(), schema.jobs.c.uid.desc()).limit(limit)
        return [(row.created, Job.FromString(row.job)) for row in await self._all(query)]

    async def unfinished_count(self, parent: str) -> int:
        """How many jobs of a project have not ended."""
        query = sa.select(sa.func.count()).where(schema.jobs.c.parent == parent, schema.jobs.c.state.not_in(ENDED))
        return int(await self._scalar(query) or 0)

    async def unfinished(self) -> list[tuple[str, int]]:
        """(uid, state) of all jobs that have not ended, oldest first."""
        query = sa.select(schema.jobs.c.uid, schema.jobs.c.state).where(schema.jobs.c.state.notin_(ENDED))
        return [(row.uid, row.state) for row in await self._all(query.order_by(schema.jobs.c.created))]

    async def state(self, uid: str) -> int:
        """The state of a job."""
        return int(await self._scalar(sa.select(schema.jobs.c.state).where(schema.jobs.c.uid == uid)))

    async def change(self, uid: str, change: Change) -> Job:
        """Changes a job in one transaction, and records the event."""
        tried: list[dict[str, Any]] = []

        def apply(connection: Connection) -> tuple[Job, bool]:
            row = _locked(connection, uid)
            job = Job.FromString(row.job)
            if tried and _has_event(connection, tried[-1]):  # the answer to an earlier try's commit was lost
                return job, True
            message = change(job)
            if message is None:
                return Job.FromString(row.job), False
            job.update_time.GetCurrentTime()
            if job.state in ENDED and not job.HasField("end_time"):
                job.end_time.CopyFrom(job.update_time)
            tried.append(_event(job, sequence=row.last_sequence + 1, message=message))
            _save(connection, job, event=tried[-1])
            return job, True

        job, _ = await self._database.write(apply, then=self._note)
        return job

    def _note(self, outcome: tuple[Job, bool]) -> None:
        job, is_changed = outcome
        if is_changed:
            self.news.note(job.uid, state=job.state)

    async def events(self, uid: str, *, after: int, limit: int = 100) -> list[Event]:
        """The events of a job with numbers above `after`, in order."""
        query = sa.select(schema.events.c.event).where(schema.events.c.uid == uid, schema.events.c.sequence > after)
        rows = await self._all(query.order_by(schema.events.c.sequence).limit(limit))
        return [Event.FromString(row.event) for row in rows]

    # ---- chunks ----

    async def put_chunks(self, uid: str, *, phase: str, chunks: Sequence[Sequence[str]]) -> None:
        """Stores which records are in which chunk; a repeated call replaces the same by the same."""
        rows = [
            {"uid": uid, "phase": phase, "number": number, "record_ids": list(ids)} for number, ids in enumerate(chunks)
        ]

        def put(connection: Connection) -> None:
            _locked(connection, uid)  # two replicas take turns
            where = (schema.chunks.c.uid == uid, schema.chunks.c.phase == phase)
            connection.execute(sa.delete(schema.chunks).where(*where))
            if rows:
                connection.execute(sa.insert(schema.chunks), rows)

        await self._database.write(put)

    async def begin_chunk(self, uid: str, *, phase: str, number: int, steps: Sequence[str]) -> Ledger:
        """Notes that a chunk is taken up, and says what it consists of and how far it got before."""
        table, chunk = schema.steps.c, schema.chunks.c
        where = (table.uid == uid, table.phase == phase, table.number == number)
        rows = [{"uid": uid, "phase": phase, "number": number, "step": step, "attempts": 0} for step in steps]
        keys = ["uid", "phase", "step", "number"]
        insert = self._database.insert(schema.steps).on_conflict_do_nothing(index_elements=keys)
        again = sa.update(schema.steps).where(*where, table.counts.is_(None)).values(attempts=table.attempts + 1)
        of_chunk = (chunk.uid == uid, chunk.phase == phase, chunk.number == number)

        def begin(connection: Connection) -> tuple[Sequence[Any], Sequence[str]]:
            # The chunk's row is the lock of its steps' rows: replicas that take up one chunk take turns.
            ids = connection.execute(sa.select(chunk.record_ids).where(*of_chunk).with_for_update()).scalar_one()
            connection.execute(insert, rows)
            connection.execute(again)
            return connection.execute(sa.select(table.step, table.attempts, table.counts).where(*where)).all(), ids

        found, record_ids = await self._database.write(begin)
        done = frozenset(row.step for row in found if row.counts is not None)
        return Ledger(tuple(record_ids), done=done, is_repeated=any(row.attempts > 1 for row in found))

    async def chunk_count(self, uid: str, *, phase: str) -> int:
        """Number of chunks of a phase."""
        where = (schema.chunks.c.uid == uid, schema.chunks.c.phase == phase)
        return int(await self._scalar(sa.select(sa.func.count()).where(*where)))

    async def done_count(self, uid: str, *, phase: str, step: str) -> int:
        """Number of chunks of a phase that have a step behind them."""
        table = schema.steps.c
        where = (table.uid == uid, table.phase == phase, table.step == step, table.counts.isnot(None))
        return int(await self._scalar(sa.select(sa.func.count()).where(*where)))

    async def put_failure(self, uid: str, *, phase: str, number: int, error: OmnialignError) -> None:
        """Notes why a chunk ended without being done."""
        table = schema.chunks.c
        where = (table.uid == uid, table.phase == phase, table.number == number)
        update = sa.update(schema.chunks).where(*where).values(failure=to_status(error).SerializeToString())
        await self._database.write(lambda c: c.execute(update), then=lambda _: self.news.stepped.give())

    async def failure(self, uid: str, *, phase: str) -> OmnialignError | None:
        """Why a chunk of the phase ended without being done, if one did: the first chunk's reason."""
        table = schema.chunks.c
        where = (table.uid == uid, table.phase == phase, table.failure.isnot(None))
        row = await self._first(sa.select(table.failure).where(*where).order_by(table.number).limit(1))
        return from_status(status_pb2.Status.FromString(row.failure)) if row else None

    async def end_steps(self, rows: Sequence[StepDone]) -> None:
        """Stores what steps of chunks committed, in one transaction."""
        table = schema.steps.c
        names = {"uid": table.uid, "phase": table.phase, "step": table.step, "number": table.number}
        where = [column == sa.bindparam(f"of_{name}") for name, column in names.items()]
        update = sa.update(schema.steps).where(*where).values(counts=sa.bindparam("done"))
        values = [
            {"of_uid": r.uid, "of_phase": r.phase, "of_step": r.step, "of_number": r.number, "done": r.counts.to_json()}
            for r in sorted(rows, key=lambda r: (r.uid, r.phase, r.step, r.number))  # always locked in the same order
        ]
        await self._database.write(lambda c: c.execute(update, values), then=lambda _: self.news.stepped.give())

    async def totals(self, uid: str) -> dict[str, Counts]:
        """What the chunks of a job committed, by step. `Counts.chunks` is the number of chunks that did it."""
        query = sa.select(schema.steps.c.step, schema.steps.c.counts).where(schema.steps.c.uid == uid)
        totals: dict[str, Counts] = {}
        for row in await self._all(query):
            counts = totals.setdefault(row.step, Counts())
            if row.counts is not None:
                counts.add(Counts.from_json(row.counts))
        return totals

    async def attempts(self, uid: str) -> dict[tuple[str, int], int]:
        """How often each (step, chunk number) of a job was begun."""
        table = schema.steps.c
        rows = await self._all(sa.select(table.step, table.number, table.attempts).where(table.uid == uid))
        return {(row.step, row.number): row.attempts for row in rows}

    # ---- reports ----

    async def put_report(self, uid: str, report: dict[str, bytes]) -> None:
        """Stores the report of a job in each format; a repeated call replaces it."""
        rows = [
            {"uid": uid, "format": name, "number": number, "data": data[start : start + REPORT_PIECE_BYTES]}
            for name, data in report.items()
            for number, start in enumerate(range(0, len(data), REPORT_PIECE_BYTES))
        ]

        def put(connection: Connection) -> None:
            _locked(connection, uid)
            connection.execute(sa.delete(schema.reports).where(schema.reports.c.uid == uid))
            connection.execute(sa.insert(schema.reports), rows)

        await self._database.write(put)

    async def report(self, uid: str, *, report_format: str) -> AsyncIterator[bytes]:
        """The report of a job in one format, piece by piece; nothing when there is none."""
        table = schema.reports.c
        query = sa.select(table.data).where(table.uid == uid, table.format == report_format)
        number = 0
        while (row := await self._first(query.where(table.number == number))) is not None:
            yield row.data
            number += 1

    # ---- replicas ----

    async def beat(self, executor_id: str, *, at_ms: int | None = None) -> None:
        """Notes that a replica lives; or, with `at_ms`, when it last did."""
        when = self._now_ms() if at_ms is None else at_ms
        insert = self._database.insert(schema.replicas).values(executor_id=executor_id, heartbeat_ms=when)
        upsert = insert.on_conflict_do_update(index_elements=["executor_id"], set_={"heartbeat_ms": when})
        await self._database.write(lambda connection: connection.execute(upsert))

    async def silent(self, *, seconds: float) -> list[str]:
        """Replicas that have not been heard of for so long."""
        limit_ms = self._now_ms() - int(seconds * 1000)
        query = sa.select(schema.replicas.c.executor_id).where(schema.replicas.c.heartbeat_ms < limit_ms)
        return [row.executor_id for row in await self._all(query)]

    async def forget(self, executor_id: str) -> None:
        """Removes a replica whose work was taken over."""
        where = schema.replicas.c.executor_id == executor_id
        await self._database.write(lambda connection: connection.execute(sa.delete(schema.replicas).where(where)))

    # ---- parts ----

    def _now_ms(self) -> Any:
        """The present moment: on PostgreSQL by its own clock, because those of replicas differ."""
        if self._database.is_sqlite:
            return time.time_ns() // 1_000_000
        return sa.cast(sa.extract("epoch", sa.func.clock_timestamp()) * 1000, sa.BigInteger)

    async def _all(self, query: sa.Select[Any]) -> Sequence[Any]:
        return await self._database.read(lambda connection: connection.execute(query).all())

    async def _first(self, query: sa.Select[Any]) -> Any:
        return await self._database.read(lambda connection: connection.execute(query).first())

    async def _scalar(self, query: sa.Select[Any]) -> Any:
        return await self._database.read(lambda connection: connection.execute(query).scalar_one())


def _locked(connection: Connection, uid: str) -> Any:
    query = sa.select(schema.jobs.c.job, schema.jobs.c.last_sequence).where(schema.jobs.c.uid == uid)
    return connection.execute(query.with_for_update(key_share=True)).one()  # rows may still refer to it


def _save(connection: Connection, job: Job, *, event: dict[str, Any]) -> None:
    values = {"job": job.SerializeToString(), "state": job.state, "last_sequence": event["sequence"]}
    connection.execute(sa.update(schema.jobs).where(schema.jobs.c.uid == job.uid).values(values))
    connection.execute(sa.insert(schema.events).values(event))


def _has_event(connection: Connection, event: dict[str, Any]) -> bool:
    table = schema.events.c
    where = (table.uid == event["uid"], table.sequence == event["sequence"], table.event == event["event"])
    return connection.execute(sa.select(table.sequence).where(*where)).first() is not None


def _event(job: Job, *, sequence: int, message: str) -> dict[str, Any]:
    event = Event(sequence=sequence, message=message, alignment_job=job)
    event.event_time.GetCurrentTime()
    return {"uid": job.uid, "sequence": sequence, "event": event.SerializeToString()}


@contextlib.asynccontextmanager
async def open_store(url: str) -> AsyncIterator[Store]:
    """A store that is closed on exit; nothing is opened before its first use."""
    store = Store(Database(url))
    try:
        yield store
    finally:
        await store.close()
