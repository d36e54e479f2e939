"""Tables of a job kind's database: jobs, their numbered events, the chunks of their records, replicas, reports.

Every kind has the same tables under names of its own (`alignment_jobs`, ...), so that all kinds may share one database.
"""

import functools
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from omnialign.errors import NotFound

FAILED = sa.text("failure IS NOT NULL")


@dataclass(frozen=True)
class Tables:
    """The tables of one kind."""

    metadata: sa.MetaData
    jobs: sa.Table
    events: sa.Table
    chunks: sa.Table
    steps: sa.Table
    replicas: sa.Table
    reports: sa.Table


@functools.cache
def tables(prefix: str) -> Tables:
    """The tables whose names begin with `prefix`."""
    metadata = sa.MetaData()

    def uid() -> sa.Column[str]:
        return sa.Column("uid", sa.ForeignKey(f"{prefix}_jobs.uid"), primary_key=True)

    jobs = sa.Table(
        f"{prefix}_jobs",
        metadata,
        sa.Column("uid", sa.String(36), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False, unique=True),
        sa.Column("parent", sa.String(80), nullable=False),
        sa.Column("state", sa.Integer, nullable=False),
        sa.Column("job", sa.LargeBinary, nullable=False),
        # The spec with names resolved and defaults filled in: what the stages work by.
        sa.Column("plan", sa.LargeBinary, nullable=False),
        sa.Column("request_id", sa.String(36), nullable=True),
        # SHA-256 of the request, to tell a repetition from another request with the same id.
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("last_sequence", sa.BigInteger, nullable=False),
        # How often the job was taken up since it last made progress, and the number of the event at which it was.
        sa.Column("starts", sa.Integer, nullable=False, server_default="0"),
        sa.Column("starts_sequence", sa.BigInteger, nullable=False, server_default="0"),
        sa.UniqueConstraint("parent", "request_id"),
    )
    events = sa.Table(
        f"{prefix}_events",
        metadata,
        uid(),
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("event", sa.LargeBinary, nullable=False),
    )
    # One row per chunk: which records are in it.
    chunks = sa.Table(
        f"{prefix}_chunks",
        metadata,
        uid(),
        sa.Column("phase", sa.String(20), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("record_ids", sa.JSON, nullable=False),
        # The google.rpc.Status that ended the chunk, if one did: it ends the job.
        sa.Column("failure", sa.LargeBinary, nullable=True),
        # What ended a chunk is looked for a few times a second, among all chunks of a job.
        sa.Index(f"{prefix}_failures", "uid", "phase", "number", sqlite_where=FAILED, postgresql_where=FAILED),
    )
    # One row per chunk and step: how often the chunk was taken up while this step was still to do, and what the step
    # committed once it had. The counts of a stage are sums over these rows. A step that ran twice replaces its row, so
    # nothing counts twice.
    steps = sa.Table(
        f"{prefix}_steps",
        metadata,
        uid(),
        sa.Column("phase", sa.String(20), primary_key=True),
        sa.Column("step", sa.String(20), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("counts", sa.JSON(none_as_null=True), nullable=True),
    )
    replicas = sa.Table(
        f"{prefix}_replicas",
        metadata,
        sa.Column("executor_id", sa.String(100), primary_key=True),
        sa.Column("heartbeat_ms", sa.BigInteger, nullable=False),
    )
    # The report of a job in each format, in pieces that fit into a message.
    reports = sa.Table(
        f"{prefix}_reports",
        metadata,
        uid(),
        sa.Column("format", sa.String(10), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
    return Tables(metadata, jobs, events, chunks, steps, replicas, reports)


def lock_job(connection: sa.Connection, tables: Tables, uid: str) -> Any:
    """Locks the row of a job until the transaction ends; returns its `job` and `last_sequence`.

    Raises NotFound (`JOB_NOT_FOUND`) for a job that was deleted.
    """
    jobs = tables.jobs.c
    # FOR NO KEY UPDATE: rows of other tables may still come to refer to it meanwhile.
    query = sa.select(jobs.job, jobs.last_sequence).where(jobs.uid == uid).with_for_update(key_share=True)
    if (row := connection.execute(query).first()) is None:
        raise job_gone(uid)
    return row


def job_gone(uid: str) -> NotFound:
    """The error for a job that was deleted."""
    return NotFound(f"there is no job with uid '{uid}'", reason="JOB_NOT_FOUND", metadata={"uid": uid})
