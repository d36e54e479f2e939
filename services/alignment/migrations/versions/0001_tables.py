"""The tables of the first release."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "alignment_jobs",
        sa.Column("uid", sa.String(36), primary_key=True),
        sa.Column("name", sa.String(200), nullable=False, unique=True),
        sa.Column("parent", sa.String(80), nullable=False),
        sa.Column("state", sa.Integer, nullable=False),
        sa.Column("job", sa.LargeBinary, nullable=False),
        sa.Column("plan", sa.LargeBinary, nullable=False),
        sa.Column("request_id", sa.String(36), nullable=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("created", sa.BigInteger, nullable=False),
        sa.Column("last_sequence", sa.BigInteger, nullable=False),
        sa.UniqueConstraint("parent", "request_id"),
    )
    op.create_table(
        "alignment_events",
        sa.Column("uid", sa.String(36), sa.ForeignKey("alignment_jobs.uid"), primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("event", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "alignment_chunks",
        sa.Column("uid", sa.String(36), sa.ForeignKey("alignment_jobs.uid"), primary_key=True),
        sa.Column("phase", sa.String(20), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("record_ids", sa.JSON, nullable=False),
        sa.Column("failure", sa.LargeBinary, nullable=True),
    )
    op.create_table(
        "alignment_steps",
        sa.Column("uid", sa.String(36), sa.ForeignKey("alignment_jobs.uid"), primary_key=True),
        sa.Column("phase", sa.String(20), primary_key=True),
        sa.Column("step", sa.String(20), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("counts", sa.JSON(none_as_null=True), nullable=True),
    )
    op.create_table(
        "alignment_replicas",
        sa.Column("executor_id", sa.String(100), primary_key=True),
        sa.Column("heartbeat_ms", sa.BigInteger, nullable=False),
    )
