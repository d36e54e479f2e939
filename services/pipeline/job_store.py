"""Persistence of jobs, their events and their reports. SQLite on a laptop, PostgreSQL in a cluster.

Each change of a job is one transaction that reads the job under a lock, changes it, and writes the event beside it, so
that events have no gaps and watchers miss nothing. No decisions are made here.
"""

import time
from collections.abc import AsyncIterator, Callable
from typing import Any

import sqlalchemy as sa
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from omnialign import names
from omnialign.errors import AlreadyExists, NotFound
from services.pipeline.kind import Change, Job, JobKind, Plan
from services.pipeline.notifier import Notifier
from services.pipeline.schema import job_gone, lock_job, tables
from services.runtime.database import Database

Event = Any
"""The event message of a kind (`JobKind.event`)."""

REPORT_PIECE_BYTES = 256 * 1024


class JobStore:
    """The jobs of a kind. `notifier` hears of every change that this process makes."""

    def __init__(self, database: Database, kind: JobKind, notifier: Notifier) -> None:
        self.database, self._kind, self._notifier = database, kind, notifier
        self._tables = tables(kind.name)

    async def prepare(self) -> None:
        """Makes sure that the tables are up to date. Raises FailedPrecondition (`SCHEMA_OUTDATED`)."""
        await self._kind.migrations.prepare(self.database)

    async def look(self) -> None:
        """Raises what keeps the store from being used, such as Unavailable (`DATABASE_UNAVAILABLE`)."""
        await self._kind.migrations.look(self.database)

    # ---- jobs ----

    async def insert(self, job: Job, *, plan: Plan, request_id: str, digest: str) -> None:
        """Stores a new job with its first event. Raises AlreadyExists (`JOB_EXISTS`) if its name is taken."""
        row = {
            "uid": job.uid,
            "name": job.name,
            "parent": names.parent_of(job.name),
            "state": job.state,
            "job": job.SerializeToString(),
            "plan": plan.SerializeToString(),
            "request_id": request_id or None,
            "digest": digest,
            "created": time.time_ns(),
            "last_sequence": 1,
        }

        def add(connection: Connection) -> None:
            connection.execute(sa.insert(self._tables.jobs).values(row))
            connection.execute(sa.insert(self._tables.events).values(self._event_row(job, 1, "Accepted.")))

        try:
            await self.database.write(add, then=lambda _: self._notifier.job_changed.notify_all())
        except IntegrityError as error:
            message = f"the {self._kind.noun} '{job.name}' already exists; choose another id"
            raise AlreadyExists(message, reason="JOB_EXISTS", metadata={"name": job.name}) from error

    async def find_request(self, parent: str, request_id: str) -> tuple[Job, str] | None:
        """The job that a request id created in a project, with the digest of that request; None if there is none."""
        jobs = self._tables.jobs.c
        where = (jobs.parent == parent, jobs.request_id == request_id)
        row = await self.database.first(sa.select(jobs.job, jobs.digest).where(*where))
        return (self._job(row.job), row.digest) if row else None

    async def get(self, name: str) -> Job:
        """The job of this name. Raises NotFound (`JOB_NOT_FOUND`)."""
        jobs = self._tables.jobs.c
        row = await self.database.first(sa.select(jobs.job).where(jobs.name == name))
        if row is None:
            message = f"there is no {self._kind.noun} '{name}'"
            raise NotFound(message, reason="JOB_NOT_FOUND", metadata={"name": name})
        return self._job(row.job)

    async def load(self, uid: str) -> tuple[Job, Plan]:
        """The job of this uid and its plan. Raises NotFound (`JOB_NOT_FOUND`)."""
        jobs = self._tables.jobs.c
        row = await self.database.first(sa.select(jobs.job, jobs.plan).where(jobs.uid == uid))
        if row is None:
            raise job_gone(uid)
        return self._job(row.job), self._kind.plan.FromString(row.plan)

    async def page(self, parent: str, *, before: tuple[int, str] | None, limit: int) -> list[tuple[int, Job]]:
        """Jobs of a project, newest first, with their sort keys; `before` is the (key, uid) of the last one seen."""
        jobs = self._tables.jobs.c
        query = sa.select(jobs.created, jobs.job).where(jobs.parent == parent)
        if before is not None:
            query = query.where(sa.tuple_(jobs.created, jobs.uid) < sa.tuple_(*before))
        query = query.order_by(jobs.created.desc(), jobs.uid.desc()).limit(limit)
        return [(row.created, self._job(row.job)) for row in await self.database.all(query)]

    async def unfinished_count(self, parent: str) -> int:
        """Number of jobs of a project that have not ended."""
        jobs = self._tables.jobs.c
        where = (jobs.parent == parent, jobs.state.not_in(self._kind.ended))
        return int(await self.database.scalar(sa.select(sa.func.count()).where(*where)) or 0)

    async def unfinished(self) -> list[tuple[str, int]]:
        """(uid, state) of all jobs that have not ended, oldest first."""
        jobs = self._tables.jobs.c
        query = sa.select(jobs.uid, jobs.state).where(jobs.state.not_in(self._kind.ended)).order_by(jobs.created)
        return [(row.uid, row.state) for row in await self.database.all(query)]

    async def unfinished_plans(self) -> dict[str, tuple[Job, Plan]]:
        """All jobs that have not ended, with their plans, by name."""
        jobs = self._tables.jobs.c
        query = sa.select(jobs.name, jobs.job, jobs.plan).where(jobs.state.not_in(self._kind.ended))
        rows = await self.database.all(query)
        return {row.name: (self._job(row.job), self._kind.plan.FromString(row.plan)) for row in rows}

    async def state(self, uid: str) -> int:
        """The state of a job. Raises NotFound (`JOB_NOT_FOUND`)."""
        jobs = self._tables.jobs.c
        row = await self.database.first(sa.select(jobs.state).where(jobs.uid == uid))
        if row is None:
            raise job_gone(uid)
        return int(row.state)

    async def change(self, uid: str, change: Change) -> Job:
        """Changes a job in one transaction, and records the event. Raises NotFound (`JOB_NOT_FOUND`)."""
        return await self.change_by(uid, lambda _: change)

    async def change_by(self, uid: str, prepare: Callable[[Connection], Change]) -> Job:
        """As `change`, by what `prepare` makes of what it reads in the same transaction, under the job's lock.

        What is read before the lock may be out of date by the time of the change, and overwrite what is newer.
        """
        attempts: list[dict[str, Any]] = []

        def apply(connection: Connection) -> tuple[Job, bool]:
            row = lock_job(connection, self._tables, uid)
            job = self._job(row.job)
            # The transaction may be repeated because the answer to its commit was lost, not the commit itself. Then
            # its event is there already, and changing the job again would change it twice.
            if attempts and self._has_event(connection, attempts[-1]):
                return job, True
            message = prepare(connection)(job)
            if message is None:
                return self._job(row.job), False
            job.update_time.GetCurrentTime()
            if job.state in self._kind.ended and not job.HasField("end_time"):
                job.end_time.CopyFrom(job.update_time)
            attempts.append(self._event_row(job, row.last_sequence + 1, message))
            self._save(connection, job, event=attempts[-1])
            return job, True

        job, _ = await self.database.write(apply, then=self._notify)
        return job

    # ---- starts ----

    async def count_start(self, uid: str) -> int:
        """Notes that a process takes a running job up; returns how often that has happened without an event since."""
        jobs = self._tables.jobs

        def count(connection: Connection) -> int:
            row = connection.execute(sa.select(jobs).where(jobs.c.uid == uid).with_for_update(key_share=True)).one()
            if row.state != self._kind.job.STATE_RUNNING:
                return 0
            starts = 1 + (row.starts if row.starts_sequence == row.last_sequence else 0)
            values = {"starts": starts, "starts_sequence": row.last_sequence}
            connection.execute(sa.update(jobs).where(jobs.c.uid == uid).values(values))
            return starts

        return await self.database.write(count)

    async def forgive_starts(self, uid: str) -> None:
        """Forgets the starts of a job whose process ends in good order."""
        jobs = self._tables.jobs
        await self.database.write(
            lambda connection: connection.execute(sa.update(jobs).where(jobs.c.uid == uid).values(starts=0))
        )

    async def delete(self, uid: str) -> None:
        """Removes a job with all that is kept of it."""
        tables = self._tables
        of_all_kinds = (tables.reports, tables.steps, tables.chunks, tables.events, tables.jobs)

        def delete(connection: Connection) -> None:
            for table in (*self._kind.own_tables, *of_all_kinds):
                connection.execute(sa.delete(table).where(table.c.uid == uid))

        await self.database.write(delete)

    # ---- events ----

    async def events(self, uid: str, *, after: int, limit: int = 100) -> list[Event]:
        """The events of a job with numbers above `after`, in order."""
        events = self._tables.events.c
        query = sa.select(events.event).where(events.uid == uid, events.sequence > after)
        rows = await self.database.all(query.order_by(events.sequence).limit(limit))
        return [self._kind.event.FromString(row.event) for row in rows]

    # ---- reports ----

    async def put_report(self, uid: str, report: dict[str, bytes]) -> None:
        """Stores the report of a job in each format; a repeated call replaces it."""
        reports = self._tables.reports
        rows = [
            {"uid": uid, "format": name, "number": number, "data": data[start : start + REPORT_PIECE_BYTES]}
            for name, data in report.items()
            for number, start in enumerate(range(0, len(data), REPORT_PIECE_BYTES))
        ]

        def put(connection: Connection) -> None:
            lock_job(connection, self._tables, uid)
            connection.execute(sa.delete(reports).where(reports.c.uid == uid))
            connection.execute(sa.insert(reports), rows)

        await self.database.write(put)

    async def report(self, uid: str, *, report_format: str) -> AsyncIterator[bytes]:
        """The report of a job in one format, piece by piece; nothing if there is none."""
        reports = self._tables.reports.c
        query = sa.select(reports.data).where(reports.uid == uid, reports.format == report_format)
        number = 0
        while (row := await self.database.first(query.where(reports.number == number))) is not None:
            yield row.data
            number += 1

    # ---- parts ----

    def _notify(self, outcome: tuple[Job, bool]) -> None:
        job, is_changed = outcome
        if is_changed:
            self._notifier.job_state(job.uid, job.state)

    def _job(self, data: bytes) -> Job:
        return self._kind.job.FromString(data)

    def _save(self, connection: Connection, job: Job, *, event: dict[str, Any]) -> None:
        jobs = self._tables.jobs
        values = {"job": job.SerializeToString(), "state": job.state, "last_sequence": event["sequence"]}
        connection.execute(sa.update(jobs).where(jobs.c.uid == job.uid).values(values))
        connection.execute(sa.insert(self._tables.events).values(event))

    def _has_event(self, connection: Connection, event: dict[str, Any]) -> bool:
        events = self._tables.events.c
        where = (events.uid == event["uid"], events.sequence == event["sequence"], events.event == event["event"])
        return connection.execute(sa.select(events.sequence).where(*where)).first() is not None

    def _event_row(self, job: Job, sequence: int, message: str) -> dict[str, Any]:
        event = self._kind.event(sequence=sequence, message=message, **{self._kind.event_field: job})
        event.event_time.GetCurrentTime()
        return {"uid": job.uid, "sequence": sequence, "event": event.SerializeToString()}


def event_job(kind: JobKind, event: Event) -> Job:
    """The job in an event."""
    return getattr(event, kind.event_field)
