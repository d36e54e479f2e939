"""The tables of the first release."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "datasets",
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("parent", sa.String(80), nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("message", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_datasets_parent", "datasets", ["parent"])
    op.create_table(
        "dataset_versions",
        sa.Column("dataset", sa.String(255), sa.ForeignKey("datasets.name", ondelete="CASCADE"), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("state", sa.BigInteger, nullable=False),
        sa.Column("message", sa.LargeBinary, nullable=False),
    )
    op.create_table(
        "model_versions",
        sa.Column("model", sa.String(255), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True),
        sa.Column("parent", sa.String(80), nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("message", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_model_versions_parent", "model_versions", ["parent"])
    op.create_table(
        "data_requests",
        sa.Column("key", sa.String(255), primary_key=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("dataset", sa.String(255), sa.ForeignKey("datasets.name", ondelete="CASCADE"), nullable=False),
    )
    op.create_table(
        "lineage",
        sa.Column("source", sa.String(1024), primary_key=True),
        sa.Column("target", sa.String(1024), primary_key=True),
        sa.Column("relation", sa.String(64), primary_key=True),
        sa.Column("parent", sa.String(80), primary_key=True),
    )
    op.create_index("ix_lineage_target", "lineage", ["target"])
