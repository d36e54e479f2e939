"""What people decided about pairs that they review."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0004", "0003"


def upgrade() -> None:
    """Makes the table."""
    op.create_table(
        "alignment_reviews",
        sa.Column("uid", sa.String(36), sa.ForeignKey("alignment_jobs.uid"), primary_key=True),
        sa.Column("round", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("record_id", sa.String(200), primary_key=True),
        sa.Column("decision", sa.Integer, nullable=False),
        sa.Column("review", sa.LargeBinary, nullable=False),
    )
