"""Training jobs in SQL: the jobs, their numbered events, and the requests that made them.

A change of a job and its event are one transaction, so the numbers of the events have no gaps and no event is lost.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa
from google.protobuf import timestamp_pb2
from sqlalchemy import Connection
from sqlalchemy.exc import IntegrityError

from omnialign.errors import AlreadyExists, NotFound
from omnialign.v1.training_service_pb2 import (
    CreateTrainingJobRequest,
    TrainingJob,
    TrainingSpec,
    WatchTrainingJobResponse,
)
from services.runtime.database import Database
from services.runtime.migrations import Migrations
from services.runtime.requests import body_digest, check_same_body

METADATA = sa.MetaData()
JOBS = sa.Table(
    "training_jobs",
    METADATA,
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("parent", sa.String(80), nullable=False, index=True),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("state", sa.Integer, nullable=False, index=True),
    sa.Column("message", sa.LargeBinary, nullable=False),
    sa.Column("token_digest", sa.String(64), nullable=False, default=""),
    sa.Column("pid", sa.Integer, nullable=False, default=0),
    sa.Column("pid_start_time", sa.Float, nullable=False, default=0.0),
    sa.Column("num_crashes", sa.Integer, nullable=False, default=0),
    sa.Column("num_events", sa.BigInteger, nullable=False, default=0),
)
EVENTS = sa.Table(
    "training_events",
    METADATA,
    sa.Column("job", sa.String(255), primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True),
    sa.Column("message", sa.LargeBinary, nullable=False),
)
REQUESTS = sa.Table(
    "training_requests",
    METADATA,
    sa.Column("key", sa.String(255), primary_key=True),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("job", sa.String(255), nullable=False),
)
ENDED = (TrainingJob.STATE_SUCCEEDED, TrainingJob.STATE_FAILED, TrainingJob.STATE_CANCELLED)
MIGRATIONS = Migrations("training", Path(__file__).parent / "migrations", witness="training_jobs")


@dataclass
class Entry:
    """A job with what only the service knows of it. `pid` is 0 while no attempt runs."""

    job: TrainingJob
    token_digest: str = ""
    pid: int = 0
    pid_start_time: float = 0.0
    num_crashes: int = 0


def now() -> timestamp_pb2.Timestamp:
    """The current time."""
    moment = timestamp_pb2.Timestamp()
    moment.GetCurrentTime()
    return moment


def note_running(entry: Entry) -> None:
    """Marks a launched job as running, and when it began to."""
    if entry.job.state == TrainingJob.STATE_QUEUED:
        entry.job.state = TrainingJob.STATE_RUNNING
    if not entry.job.HasField("start_time"):
        entry.job.start_time.CopyFrom(now())


def settle(entry: Entry, state: "TrainingJob.State.ValueType", *, model: str = "") -> None:
    """Marks a job as ended in `state`."""
    entry.job.state, entry.job.model = state, model
    entry.job.ClearField("condition")
    entry.job.end_time.CopyFrom(now())


class Store:
    """The only writer of the tables."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def prepare(self) -> None:
        """Makes the tables, or checks that they are up to date. Raises `FailedPrecondition` (SCHEMA_OUTDATED)."""
        await MIGRATIONS.prepare(self._database)

    async def look(self) -> None:
        """Raises what keeps the store from being used, such as Unavailable (`DATABASE_UNAVAILABLE`)."""
        await MIGRATIONS.look(self._database)

    async def create(self, job: TrainingJob, request: CreateTrainingJobRequest, *, parent: str) -> TrainingJob:
        """Adds a job with its first event. A repeated `request_id` with the same body returns the first call's job.

        Raises `AlreadyExists` (TRAINING_JOB_EXISTS) and `InvalidArgument` (REQUEST_ID_REUSED).
        """
        key = _key(request)

        def add(connection: Connection) -> TrainingJob:
            if key and (made := _made_by(connection, key, request)) is not None:
                return made
            connection.execute(JOBS.insert().values(name=job.name, parent=parent, **_columns(Entry(job))))
            _add_event(connection, job, sequence=1)
            if key:
                row = {"key": key, "digest": body_digest(request), "job": job.name}
                connection.execute(REQUESTS.insert().values(row))
            return job

        try:
            return await self._database.write(add)
        except IntegrityError as error:
            # Another call was faster; if it was a repetition of this one, its job is the answer.
            if (made := await self.made_by(request)) is not None:
                return made
            raise AlreadyExists(
                f"{job.name} exists", reason="TRAINING_JOB_EXISTS", metadata={"name": job.name}
            ) from error

    async def get(self, name: str) -> Entry:
        """A job. Raises `NotFound` (TRAINING_JOB_NOT_FOUND)."""
        return await self._database.read(lambda connection: _read(connection, name))

    async def update(self, name: str, change: Callable[[Entry], None], *, event: bool = True) -> Entry:
        """Applies `change` to a job, and adds an event unless `event` is False or the job did not change.

        `change` is called in another thread, and again if the transaction is repeated, so it may edit nothing but the
        entry.
        """

        def apply(connection: Connection) -> Entry:
            entry = _read(connection, name, lock=True)
            before = entry.job.SerializeToString(deterministic=True)
            change(entry)
            changed = before != entry.job.SerializeToString(deterministic=True)
            values = _columns(entry)
            if event and changed:
                # The row is locked, so two writers cannot take the same number.
                count = connection.scalar(sa.select(JOBS.c.num_events).where(JOBS.c.name == name))
                sequence = int(count or 0) + 1
                values["num_events"] = entry.job.last_event = sequence
                _add_event(connection, entry.job, sequence=sequence)
            else:
                values.pop("num_events", None)
            connection.execute(JOBS.update().where(JOBS.c.name == name).values(values))
            return entry

        return await self._database.write(apply)

    async def page(self, parent: str, *, after: Sequence[str], limit: int) -> list[TrainingJob]:
        """Jobs from newest to oldest. `after` is the (created_us, name) of the last one that was seen."""
        query = sa.select(JOBS.c.message, JOBS.c.num_events).where(JOBS.c.parent == parent)
        if after:
            created, name = int(after[0]), after[1]
            older = sa.and_(JOBS.c.created_us == created, JOBS.c.name < name)
            query = query.where(sa.or_(JOBS.c.created_us < created, older))
        query = query.order_by(JOBS.c.created_us.desc(), JOBS.c.name.desc()).limit(limit)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return [_job(row.message, last_event=row.num_events) for row in rows]

    async def made_by(self, request: CreateTrainingJobRequest) -> TrainingJob | None:
        """The job that this request made earlier. Raises `InvalidArgument` (REQUEST_ID_REUSED)."""
        key = _key(request)
        return await self._database.read(lambda connection: _made_by(connection, key, request)) if key else None

    async def unfinished_count(self, parent: str) -> int:
        """How many jobs of a project have not ended."""
        query = sa.select(sa.func.count()).where(JOBS.c.parent == parent, JOBS.c.state.not_in(ENDED))
        return int(await self._database.scalar(query) or 0)

    async def unfinished(self) -> list[Entry]:
        """The jobs that have not ended, oldest first."""
        query = sa.select(JOBS).where(JOBS.c.state.not_in(ENDED)).order_by(JOBS.c.created_us, JOBS.c.name)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return [_entry(row) for row in rows]

    async def unfinished_specs(self) -> dict[str, tuple[TrainingSpec]]:
        """The specs of the jobs that have not ended, by name."""
        return {entry.job.name: (entry.job.spec,) for entry in await self.unfinished()}

    async def events(self, name: str, *, after: int, limit: int = 100) -> list[WatchTrainingJobResponse]:
        """The events of a job with numbers above `after`, in order."""
        query = sa.select(EVENTS.c.message).where(EVENTS.c.job == name, EVENTS.c.sequence > after)
        query = query.order_by(EVENTS.c.sequence).limit(limit)
        rows = await self._database.read(lambda connection: connection.execute(query).all())
        return [WatchTrainingJobResponse.FromString(row.message) for row in rows]


def _key(request: CreateTrainingJobRequest) -> str:
    return f"{request.parent}/{request.request_id}" if request.request_id else ""


def _made_by(connection: Connection, key: str, request: CreateTrainingJobRequest) -> TrainingJob | None:
    row = connection.execute(sa.select(REQUESTS).where(REQUESTS.c.key == key)).first()
    if row is None:
        return None
    check_same_body(row.digest, request, request_id=request.request_id)
    return _read(connection, row.job).job


def _read(connection: Connection, name: str, *, lock: bool = False) -> Entry:
    query = sa.select(JOBS).where(JOBS.c.name == name)
    row = connection.execute(query.with_for_update() if lock else query).first()
    if row is None:
        raise NotFound(f"{name} does not exist", reason="TRAINING_JOB_NOT_FOUND", metadata={"name": name})
    return _entry(row)


def _add_event(connection: Connection, job: TrainingJob, *, sequence: int) -> None:
    event = WatchTrainingJobResponse(sequence=sequence, event_time=now(), training_job=job)
    row = {"job": job.name, "sequence": sequence, "message": event.SerializeToString()}
    connection.execute(EVENTS.insert().values(row))


def _columns(entry: Entry) -> dict[str, object]:
    return {
        "created_us": entry.job.create_time.ToMicroseconds(),
        "state": entry.job.state,
        "message": entry.job.SerializeToString(),
        "token_digest": entry.token_digest,
        "pid": entry.pid,
        "pid_start_time": entry.pid_start_time,
        "num_crashes": entry.num_crashes,
        "num_events": 1,
    }


def _entry(row: sa.Row[tuple[object, ...]]) -> Entry:
    return Entry(
        job=_job(row.message, last_event=row.num_events),
        token_digest=row.token_digest,
        pid=row.pid,
        pid_start_time=row.pid_start_time,
        num_crashes=row.num_crashes,
    )


def _job(message: bytes, *, last_event: int) -> TrainingJob:
    job = TrainingJob.FromString(message)
    job.last_event = last_event
    return job
