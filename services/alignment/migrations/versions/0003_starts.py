"""Counts how often a job was taken up without progress, so that one that ends its process each time is given up."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0003", "0002"


def upgrade() -> None:
    """Makes the columns."""
    op.add_column("alignment_jobs", sa.Column("starts", sa.Integer, nullable=False, server_default="0"))
    op.add_column("alignment_jobs", sa.Column("starts_sequence", sa.BigInteger, nullable=False, server_default="0"))
