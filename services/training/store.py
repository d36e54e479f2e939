"""Training jobs in SQL: the jobs, their numbered events, and the requests that made them.

A change of a job and its event are one transaction, so the numbers of the events have no gaps and no event is lost.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa
from google.protobuf import timestamp_pb2
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from omnialign.errors import AlreadyExists, NotFound
from omnialign.v1.training_service_pb2 import CreateTrainingJobRequest, TrainingJob, WatchTrainingJobResponse
from services.runtime.database import whole
from services.runtime.idempotency import body_digest, check_same_body

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


@dataclass
class Entry:
    """A job with what only the service knows of it. `pid` is 0 while no process runs."""

    job: TrainingJob
    token_digest: str = ""
    pid: int = 0
    pid_start_time: float = 0.0
    num_crashes: int = 0


def now() -> timestamp_pb2.Timestamp:
    """The present moment."""
    moment = timestamp_pb2.Timestamp()
    moment.GetCurrentTime()
    return moment


class Store:
    """The only writer of the tables."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._reading = engine.execution_options(read_only=True)

    async def prepare(self) -> None:
        """Makes the tables when they are missing."""
        async with self._engine.begin() as connection:
            await connection.run_sync(METADATA.create_all)

    @whole
    async def create(self, job: TrainingJob, request: CreateTrainingJobRequest, *, parent: str) -> TrainingJob:
        """Adds a job with its first event. The same `request_id` and body return the first call's job.

        Raises `AlreadyExists` (TRAINING_JOB_EXISTS) and `InvalidArgument` (REQUEST_ID_REUSED).
        """
        key = f"{parent}/{request.request_id}" if request.request_id else ""
        try:
            async with self._engine.begin() as connection:
                if key and (made := await self._made_by(connection, key, request)) is not None:
                    return made
                await connection.execute(JOBS.insert().values(name=job.name, parent=parent, **_columns(Entry(job))))
                await self._add_event(connection, job, sequence=1)
                if key:
                    row = {"key": key, "digest": body_digest(request), "job": job.name}
                    await connection.execute(REQUESTS.insert().values(row))
        except IntegrityError as error:
            raise AlreadyExists(
                f"{job.name} exists", reason="TRAINING_JOB_EXISTS", metadata={"name": job.name}
            ) from error
        return job

    @whole
    async def get(self, name: str) -> Entry:
        """A job. Raises `NotFound` (TRAINING_JOB_NOT_FOUND)."""
        async with self._reading.connect() as connection:
            return await self._read(connection, name)

    @whole
    async def update(self, name: str, change: Callable[[Entry], None], *, event: bool = True) -> Entry:
        """Changes a job, with an event that tells of it unless `event` is False or nothing changed."""
        async with self._engine.begin() as connection:
            entry = await self._read(connection, name)
            before = entry.job.SerializeToString(deterministic=True)
            change(entry)
            changed = before != entry.job.SerializeToString(deterministic=True)
            values = _columns(entry)
            if event and changed:
                count = await connection.scalar(sa.select(JOBS.c.num_events).where(JOBS.c.name == name))
                sequence = int(count or 0) + 1
                values["num_events"] = sequence
                await self._add_event(connection, entry.job, sequence=sequence)
            else:
                values.pop("num_events", None)
            await connection.execute(JOBS.update().where(JOBS.c.name == name).values(values))
        return entry

    @whole
    async def page(self, parent: str, *, after: Sequence[str], limit: int) -> list[TrainingJob]:
        """Jobs newest first, from after the (created_us, name) of the last one seen."""
        query = sa.select(JOBS.c.message).where(JOBS.c.parent == parent)
        if after:
            created, name = int(after[0]), after[1]
            older = sa.and_(JOBS.c.created_us == created, JOBS.c.name < name)
            query = query.where(sa.or_(JOBS.c.created_us < created, older))
        query = query.order_by(JOBS.c.created_us.desc(), JOBS.c.name.desc()).limit(limit)
        async with self._reading.connect() as connection:
            return [TrainingJob.FromString(row.message) for row in await connection.execute(query)]

    @whole
    async def unfinished(self) -> list[Entry]:
        """The jobs that have not ended, oldest first."""
        query = sa.select(JOBS).where(JOBS.c.state.not_in(ENDED)).order_by(JOBS.c.created_us, JOBS.c.name)
        async with self._reading.connect() as connection:
            return [_entry(row) for row in await connection.execute(query)]

    @whole
    async def events(self, name: str, *, after: int, limit: int = 100) -> list[WatchTrainingJobResponse]:
        """The events of a job after a number, in order."""
        query = sa.select(EVENTS.c.message).where(EVENTS.c.job == name, EVENTS.c.sequence > after)
        query = query.order_by(EVENTS.c.sequence).limit(limit)
        async with self._reading.connect() as connection:
            return [WatchTrainingJobResponse.FromString(row.message) for row in await connection.execute(query)]

    async def _made_by(
        self, connection: AsyncConnection, key: str, request: CreateTrainingJobRequest
    ) -> TrainingJob | None:
        row = (await connection.execute(sa.select(REQUESTS).where(REQUESTS.c.key == key))).first()
        if row is None:
            return None
        check_same_body(row.digest, request, request_id=request.request_id)
        return (await self._read(connection, row.job)).job

    async def _read(self, connection: AsyncConnection, name: str) -> Entry:
        row = (await connection.execute(sa.select(JOBS).where(JOBS.c.name == name))).first()
        if row is None:
            raise NotFound(f"{name} does not exist", reason="TRAINING_JOB_NOT_FOUND", metadata={"name": name})
        return _entry(row)

    async def _add_event(self, connection: AsyncConnection, job: TrainingJob, *, sequence: int) -> None:
        event = WatchTrainingJobResponse(sequence=sequence, event_time=now(), training_job=job)
        row = {"job": job.name, "sequence": sequence, "message": event.SerializeToString()}
        await connection.execute(EVENTS.insert().values(row))


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
        job=TrainingJob.FromString(row.message),
        token_digest=row.token_digest,
        pid=row.pid,
        pid_start_time=row.pid_start_time,
        num_crashes=row.num_crashes,
    )
