"""Notes when datasets expire."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0006", "0005"


def upgrade() -> None:
    """Makes the column, unless it is there."""
    if "expire_us" not in {column["name"] for column in sa.inspect(op.get_bind()).get_columns("datasets")}:
        op.add_column("datasets", sa.Column("expire_us", sa.BigInteger))
        op.create_index("ix_datasets_expire_us", "datasets", ["expire_us"])
