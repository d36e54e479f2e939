"""Models draft annotations: the tables of the job kind, and what models say of items."""

import sqlalchemy as sa
from alembic import op

from services.pipeline.schema import tables

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    """Makes the tables."""
    tables("drafting").metadata.create_all(op.get_bind())
    op.create_table(
        "annotation_drafts",
        sa.Column("campaign", sa.String(255), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("model_sha256", sa.String(64), primary_key=True),
        sa.Column("drafted_us", sa.BigInteger, nullable=False),
        sa.Column("message", sa.LargeBinary, nullable=False),
    )
