"""Reports move from files of one replica into the database that all share."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    """Makes the table."""
    op.create_table(
        "alignment_reports",
        sa.Column("uid", sa.String(36), sa.ForeignKey("alignment_jobs.uid"), primary_key=True),
        sa.Column("format", sa.String(10), primary_key=True),
        sa.Column("number", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("data", sa.LargeBinary, nullable=False),
    )
