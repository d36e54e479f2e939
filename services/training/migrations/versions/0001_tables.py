"""The tables of the first release."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "training_jobs",
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("parent", sa.String(80), nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("state", sa.Integer, nullable=False),
        sa.Column("message", sa.LargeBinary, nullable=False),
        sa.Column("token_digest", sa.String(64), nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("pid_start_time", sa.Float, nullable=False),
        sa.Column("num_crashes", sa.Integer, nullable=False),
        sa.Column("num_events", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_training_jobs_parent", "training_jobs", ["parent"])
    op.create_index("ix_training_jobs_state", "training_jobs", ["state"])
    op.create_table(
        "training_events",
        sa.Column("job", sa.String(255), primary_key=True),
        sa.Column("sequence", sa.BigInteger, primary_key=True),
        sa.Column("message", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "training_requests",
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("job", sa.String(255), nullable=False),
    )
