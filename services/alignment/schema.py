"""Tables of the alignment service's own database: jobs, their numbered events, and the chunks of their records."""

import sqlalchemy as sa

metadata = sa.MetaData()

jobs = sa.Table(
    "alignment_jobs",
    metadata,
    sa.Column("uid", sa.String(36), primary_key=True),
    sa.Column("name", sa.String(200), nullable=False, unique=True),
    sa.Column("parent", sa.String(80), nullable=False),
    sa.Column("state", sa.Integer, nullable=False),
    sa.Column("job", sa.LargeBinary, nullable=False),
    # The spec with names resolved and defaults filled in: what the stages work by.
    sa.Column("plan", sa.LargeBinary, nullable=False),
    sa.Column("request_id", sa.String(36), nullable=True),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("created", sa.BigInteger, nullable=False),
    sa.Column("last_sequence", sa.BigInteger, nullable=False),
    sa.UniqueConstraint("parent", "request_id"),
)

events = sa.Table(
    "alignment_events",
    metadata,
    sa.Column("uid", sa.ForeignKey("alignment_jobs.uid"), primary_key=True),
    sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("event", sa.LargeBinary, nullable=False),
)

# One row per chunk: which records are in it.
chunks = sa.Table(
    "alignment_chunks",
    metadata,
    sa.Column("uid", sa.ForeignKey("alignment_jobs.uid"), primary_key=True),
    sa.Column("phase", sa.String(20), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("record_ids", sa.JSON, nullable=False),
    # The google.rpc.Status that ended the chunk, where one did: it ends the job.
    sa.Column("failure", sa.LargeBinary, nullable=True),
)

# One row per chunk and step: how often the chunk was taken up with this step before it, and what the step committed
# once it had. Sums over it are the counts of a stage; a step that ran twice replaces its row: nothing counts twice.
steps = sa.Table(
    "alignment_steps",
    metadata,
    sa.Column("uid", sa.ForeignKey("alignment_jobs.uid"), primary_key=True),
    sa.Column("phase", sa.String(20), primary_key=True),
    sa.Column("step", sa.String(20), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("attempts", sa.Integer, nullable=False),
    sa.Column("counts", sa.JSON(none_as_null=True), nullable=True),
)

replicas = sa.Table(
    "alignment_replicas",
    metadata,
    sa.Column("executor_id", sa.String(100), primary_key=True),
    sa.Column("heartbeat_ms", sa.BigInteger, nullable=False),
)

# The report of a job in each format, in pieces of a size that fits into a message.
reports = sa.Table(
    "alignment_reports",
    metadata,
    sa.Column("uid", sa.ForeignKey("alignment_jobs.uid"), primary_key=True),
    sa.Column("format", sa.String(10), primary_key=True),
    sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("data", sa.LargeBinary, nullable=False),
)
