"""Persistence of alignment jobs. SQLite on a laptop, PostgreSQL in a cluster; no decisions are made here.

Each change of a job is one transaction that reads it under a lock, changes it, and writes the event beside it, so
that events have no gaps and watchers miss nothing.
"""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa
from google.rpc import status_pb2
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from omnialign.errors import AlreadyExists, NotFound, OmnialignError, from_status, to_status
from omnialign.v1 import alignment_service_pb2
from services.alignment import schema
from services.alignment.counts import Counts
from services.runtime.database import whole

Job = alignment_service_pb2.AlignmentJob
Spec = alignment_service_pb2.AlignmentSpec
Event = alignment_service_pb2.WatchAlignmentJobResponse

Change = Callable[[Job], str | None]
"""Edits a job and returns the sentence of the event to record; None leaves all as it was."""

ENDED = (Job.STATE_SUCCEEDED, Job.STATE_FAILED, Job.STATE_CANCELLED)


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


class Signal:
    """Wakes all who wait, each time it is given."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def give(self) -> None:
        """Wakes all who wait now."""
        self._event.set()
        self._event = asyncio.Event()

    async def wait(self, *, timeout_seconds: float) -> None:
        """Returns at the next signal, or after the time."""
        event = self._event
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(timeout_seconds):
                await event.wait()


class Store:
    """The jobs and what is known of their progress.

    `changed` and `stepped` are given when a job or a chunk changed in this process; other replicas' changes are found
    by looking. `states` holds the newest known state of the jobs that this process works on.
    """

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._reader = engine.execution_options(read_only=True)
        self._insert = sqlite.insert if engine.dialect.name == "sqlite" else postgresql.insert
        self.changed, self.stepped = Signal(), Signal()
        self.states: dict[str, int] = {}
        self.num_changes = 0

    @whole
    async def create_tables(self) -> None:
        """Creates the tables that are not there."""
        async with self._engine.begin() as connection:
            await connection.run_sync(schema.metadata.create_all)

    async def close(self) -> None:
        """Closes the connections."""
        await self._engine.dispose()

    # ---- jobs ----

    @whole
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
        try:
            async with self._engine.begin() as connection:
                await connection.execute(sa.insert(schema.jobs).values(row))
                await connection.execute(sa.insert(schema.events).values(_event(job, sequence=1, message="Accepted.")))
        except IntegrityError as error:
            message = f"the alignment job '{job.name}' exists already; choose another id"
            raise AlreadyExists(message, reason="JOB_EXISTS", metadata={"name": job.name}) from error
        self.changed.give()

    @whole
    async def find_request(self, parent: str, request_id: str) -> tuple[Job, str] | None:
        """The job that a request id made in a project, with the digest of that request; None if there is none."""
        query = sa.select(schema.jobs.c.job, schema.jobs.c.digest).where(
            schema.jobs.c.parent == parent, schema.jobs.c.request_id == request_id
        )
        async with self._reader.connect() as connection:
            row = (await connection.execute(query)).first()
        return (Job.FromString(row.job), row.digest) if row else None

    @whole
    async def get(self, name: str) -> Job:
        """The job of this name. Raises NotFound (`JOB_NOT_FOUND`)."""
        async with self._reader.connect() as connection:
            row = (await connection.execute(sa.select(schema.jobs.c.job).where(schema.jobs.c.name == name))).first()
        if row is None:
            message = f"there is no alignment job '{name}'"
            raise NotFound(message, reason="JOB_NOT_FOUND", metadata={"name": name})
        return Job.FromString(row.job)

    @whole
    async def load(self, uid: str) -> tuple[Job, Spec]:
        """The job of this uid and its plan. Raises NotFound (`JOB_NOT_FOUND`)."""
        async with self._reader.connect() as connection:
            query = sa.select(schema.jobs.c.job, schema.jobs.c.plan).where(schema.jobs.c.uid == uid)
            row = (await connection.execute(query)).first()
        if row is None:
            raise NotFound(f"there is no alignment job with uid '{uid}'", reason="JOB_NOT_FOUND", metadata={"uid": uid})
        return Job.FromString(row.job), Spec.FromString(row.plan)

    @whole
    async def page(self, parent: str, *, before: tuple[int, str] | None, limit: int) -> list[tuple[int, Job]]:
        """Jobs of a project, newest first, with their sort keys; `before` is the (key, uid) of the last one seen."""
        query = sa.select(schema.jobs.c.created, schema.jobs.c.job).where(schema.jobs.c.parent == parent)
        if before is not None:
            query = query.where(sa.tuple_(schema.jobs.c.created, schema.jobs.c.uid) < sa.tuple_(*before))
        query = query.order_by(schema.jobs.c.created.desc(), schema.jobs.c.uid.desc()).limit(limit)
        async with self._reader.connect() as connection:
            return [(row.created, Job.FromString(row.job)) for row in await connection.execute(query)]

    @whole
    async def unfinished(self) -> list[tuple[str, int]]:
        """(uid, state) of all jobs that have not ended, oldest first."""
        query = sa.select(schema.jobs.c.uid, schema.jobs.c.state).where(schema.jobs.c.state.notin_(ENDED))
        async with self._reader.connect() as connection:
            rows = await connection.execute(query.order_by(schema.jobs.c.created))
            return [(row.uid, row.state) for row in rows]

    @whole
    async def state(self, uid: str) -> int:
        """The state of a job."""
        async with self._reader.connect() as connection:
            query = sa.select(schema.jobs.c.state).where(schema.jobs.c.uid == uid)
            return int((await connection.execute(query)).scalar_one())

    @whole
    async def change(self, uid: str, change: Change) -> Job:
        """Changes a job in one transaction, and records the event."""
        async with self._engine.begin() as connection:
            row = await self._locked(connection, uid)
            job = Job.FromString(row.job)
            message = change(job)
            if message is None:
                return Job.FromString(row.job)
            job.update_time.GetCurrentTime()
            if job.state in ENDED and not job.HasField("end_time"):
                job.end_time.CopyFrom(job.update_time)
            await self._save(connection, job, sequence=row.last_sequence + 1, message=message)
        self.num_changes += 1
        if job.uid in self.states:
            self.states[job.uid] = job.state
        self.changed.give()
        return job

    async def _locked(self, connection: AsyncConnection, uid: str) -> Any:
        query = sa.select(schema.jobs.c.job, schema.jobs.c.last_sequence).where(schema.jobs.c.uid == uid)
        return (await connection.execute(query.with_for_update())).one()

    async def _save(self, connection: AsyncConnection, job: Job, *, sequence: int, message: str) -> None:
        values = {"job": job.SerializeToString(), "state": job.state, "last_sequence": sequence}
        await connection.execute(sa.update(schema.jobs).where(schema.jobs.c.uid == job.uid).values(values))
        await connection.execute(sa.insert(schema.events).values(_event(job, sequence=sequence, message=message)))

    @whole
    async def events(self, uid: str, *, after: int, limit: int = 100) -> list[Event]:
        """The events of a job with numbers above `after`, in order."""
        query = sa.select(schema.events.c.event).where(schema.events.c.uid == uid, schema.events.c.sequence > after)
        async with self._reader.connect() as connection:
            rows = await connection.execute(query.order_by(schema.events.c.sequence).limit(limit))
            return [Event.FromString(row.event) for row in rows]

    # ---- chunks ----

    @whole
    async def put_chunks(self, uid: str, *, phase: str, chunks: Sequence[Sequence[str]]) -> None:
        """Stores which records are in which chunk; a repeated call replaces the same by the same."""
        async with self._engine.begin() as connection:
            where = (schema.chunks.c.uid == uid, schema.chunks.c.phase == phase)
            await connection.execute(sa.delete(schema.chunks).where(*where))
            rows = [
                {"uid": uid, "phase": phase, "number": number, "record_ids": list(ids)}
                for number, ids in enumerate(chunks)
            ]
            if rows:
                await connection.execute(sa.insert(schema.chunks), rows)

    @whole
    async def begin_chunk(self, uid: str, *, phase: str, number: int, steps: Sequence[str]) -> Ledger:
        """Notes that a chunk is taken up, and says what it consists of and how far it got before."""
        table, key = schema.steps.c, {"uid": uid, "phase": phase, "number": number}
        where = (table.uid == uid, table.phase == phase, table.number == number)
        rows = [{**key, "step": step, "attempts": 0} for step in steps]
        insert = self._insert(schema.steps).on_conflict_do_nothing(index_elements=["uid", "phase", "step", "number"])
        again = sa.update(schema.steps).where(*where, table.counts.is_(None)).values(attempts=table.attempts + 1)
        async with self._engine.begin() as connection:
            await connection.execute(insert, rows)
            await connection.execute(again)
            found = (await connection.execute(sa.select(table.step, table.attempts, table.counts).where(*where))).all()
            chunk = schema.chunks.c
            ids = sa.select(chunk.record_ids).where(chunk.uid == uid, chunk.phase == phase, chunk.number == number)
            record_ids = (await connection.execute(ids)).scalar_one()
        done = frozenset(row.step for row in found if row.counts is not None)
        return Ledger(tuple(record_ids), done=done, is_repeated=any(row.attempts > 1 for row in found))

    @whole
    async def chunk_count(self, uid: str, *, phase: str) -> int:
        """Number of chunks of a phase."""
        where = (schema.chunks.c.uid == uid, schema.chunks.c.phase == phase)
        async with self._reader.connect() as connection:
            return int((await connection.execute(sa.select(sa.func.count()).where(*where))).scalar_one())

    @whole
    async def done_count(self, uid: str, *, phase: str, step: str) -> int:
        """Number of chunks of a phase that have a step behind them."""
        table = schema.steps.c
        where = (table.uid == uid, table.phase == phase, table.step == step, table.counts.isnot(None))
        async with self._reader.connect() as connection:
            return int((await connection.execute(sa.select(sa.func.count()).where(*where))).scalar_one())

    @whole
    async def put_failure(self, uid: str, *, phase: str, number: int, error: OmnialignError) -> None:
        """Notes why a chunk ended without being done."""
        table = schema.chunks.c
        where = (table.uid == uid, table.phase == phase, table.number == number)
        async with self._engine.begin() as connection:
            values = {"failure": to_status(error).SerializeToString()}
            await connection.execute(sa.update(schema.chunks).where(*where).values(values))
        self.stepped.give()

    @whole
    async def failure(self, uid: str, *, phase: str) -> OmnialignError | None:
        """Why a chunk of the phase ended without being done, if one did: the first chunk's reason."""
        table = schema.chunks.c
        where = (table.uid == uid, table.phase == phase, table.failure.isnot(None))
        async with self._reader.connect() as connection:
            query = sa.select(table.failure).where(*where).order_by(table.number).limit(1)
            status = (await connection.execute(query)).scalar_one_or_none()
        return from_status(status_pb2.Status.FromString(status)) if status else None

    @whole
    async def end_steps(self, rows: Sequence[StepDone]) -> None:
        """Stores what steps of chunks committed, in one transaction."""
        table = schema.steps.c
        names = {"uid": table.uid, "phase": table.phase, "step": table.step, "number": table.number}
        where = [column == sa.bindparam(f"of_{name}") for name, column in names.items()]
        update = sa.update(schema.steps).where(*where).values(counts=sa.bindparam("done"))
        values = [
            {"of_uid": r.uid, "of_phase": r.phase, "of_step": r.step, "of_number": r.number, "done": r.counts.to_json()}
            for r in rows
        ]
        async with self._engine.begin() as connection:
            await connection.execute(update, values)
        self.stepped.give()

    @whole
    async def totals(self, uid: str) -> dict[str, Counts]:
        """What the chunks of a job committed, by step. `Counts.chunks` is the number of chunks that did it."""
        query = sa.select(schema.steps.c.step, schema.steps.c.counts).where(schema.steps.c.uid == uid)
        totals: dict[str, Counts] = {}
        async with self._reader.connect() as connection:
            for row in await connection.execute(query):
                counts = totals.setdefault(row.step, Counts())
                if row.counts is not None:
                    counts.add(Counts.from_json(row.counts))
        return totals

    @whole
    async def attempts(self, uid: str) -> dict[tuple[str, int], int]:
        """How often each (step, chunk number) of a job was begun."""
        table = schema.steps.c
        async with self._reader.connect() as connection:
            rows = await connection.execute(sa.select(table.step, table.number, table.attempts).where(table.uid == uid))
            return {(row.step, row.number): row.attempts for row in rows}

    # ---- replicas ----

    @whole
    async def beat(self, executor_id: str) -> None:
        """Notes that a replica lives."""
        now_ms = time.time_ns() // 1_000_000
        insert = self._insert(schema.replicas).values(executor_id=executor_id, heartbeat_ms=now_ms)
        upsert = insert.on_conflict_do_update(index_elements=["executor_id"], set_={"heartbeat_ms": now_ms})
        async with self._engine.begin() as connection:
            await connection.execute(upsert)

    @whole
    async def silent(self, *, seconds: float) -> list[str]:
        """Replicas that have not been heard of for so long."""
        limit_ms = time.time_ns() // 1_000_000 - int(seconds * 1000)
        query = sa.select(schema.replicas.c.executor_id).where(schema.replicas.c.heartbeat_ms < limit_ms)
        async with self._reader.connect() as connection:
            return list((await connection.execute(query)).scalars())

    @whole
    async def forget(self, executor_id: str) -> None:
        """Removes a replica whose work was taken over."""
        async with self._engine.begin() as connection:
            where = schema.replicas.c.executor_id == executor_id
            await connection.execute(sa.delete(schema.replicas).where(where))


def _event(job: Job, *, sequence: int, message: str) -> dict[str, Any]:
    event = Event(sequence=sequence, message=message, alignment_job=job)
    event.event_time.GetCurrentTime()
    return {"uid": job.uid, "sequence": sequence, "event": event.SerializeToString()}


@contextlib.asynccontextmanager
async def open_store(engine: AsyncEngine) -> AsyncIterator[Store]:
    """A store with its tables created; closed on exit."""
    store = Store(engine)
    await store.create_tables()
    try:
        yield store
    finally:
        await store.close()
