"""Counts the bytes that projects hold, remembers deleted model versions, and guards the files that versions share."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0002", "0001"


def upgrade() -> None:
    """Makes the column and the tables, unless they are there."""
    inspector = sa.inspect(op.get_bind())
    if "deleted_us" not in {column["name"] for column in inspector.get_columns("model_versions")}:
        op.add_column("model_versions", sa.Column("deleted_us", sa.BigInteger))
    if not inspector.has_table("model_files"):
        op.create_table(
            "model_files",
            sa.Column("sha256", sa.String(64), primary_key=True),
            sa.Column("claimed_us", sa.BigInteger, nullable=False),
            sa.Column("is_removed", sa.Boolean, nullable=False),
        )
    if not inspector.has_table("held_objects"):
        op.create_table(
            "held_objects",
            sa.Column("holder", sa.String(255), primary_key=True),
            sa.Column("key", sa.String(64), primary_key=True),
            sa.Column("parent", sa.String(80), nullable=False),
            sa.Column("size_bytes", sa.BigInteger, nullable=False),
            sa.Column("expire_us", sa.BigInteger),
        )
        op.create_index("ix_held_objects_parent", "held_objects", ["parent"])
