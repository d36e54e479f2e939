"""Notes when objects were last named, which are to be removed, and which datasets' names are counted in full."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0004", "0003"


def upgrade() -> None:
    """Makes the columns and the tables, unless they are there."""
    inspector = sa.inspect(op.get_bind())
    if "held_us" not in {column["name"] for column in inspector.get_columns("held_objects")}:
        op.add_column("held_objects", sa.Column("held_us", sa.BigInteger, nullable=False, server_default="0"))
        op.create_index("ix_held_objects_key", "held_objects", ["key"])
    if "deleted_us" not in {column["name"] for column in inspector.get_columns("dataset_versions")}:
        op.add_column("dataset_versions", sa.Column("deleted_us", sa.BigInteger))
    if not inspector.has_table("condemned_objects"):
        op.create_table(
            "condemned_objects",
            sa.Column("key", sa.String(80), primary_key=True),
            sa.Column("since_us", sa.BigInteger, nullable=False, index=True),
            sa.Column("claimed_us", sa.BigInteger),
        )
    if not inspector.has_table("counted_datasets"):
        op.create_table("counted_datasets", sa.Column("dataset", sa.String(255), primary_key=True))
