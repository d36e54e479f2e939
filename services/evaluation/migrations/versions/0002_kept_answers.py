"""Answers of models and judges are kept for later evaluations."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    """Makes the table."""
    op.create_table(
        "evaluation_kept_answers",
        sa.Column("key", sa.LargeBinary, primary_key=True),
        sa.Column("project", sa.String(80), nullable=False),
        sa.Column("answer", sa.LargeBinary, nullable=False),
        sa.Column("kept_ms", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_evaluation_kept_answers_kept_ms", "evaluation_kept_answers", ["kept_ms"])
