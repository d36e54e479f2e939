"""Notes which jobs and campaigns use datasets and models, and until when."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0005", "0004"


def upgrade() -> None:
    """Makes the table, unless it is there."""
    if not sa.inspect(op.get_bind()).has_table("uses"):
        op.create_table(
            "uses",
            sa.Column("name", sa.String(255), primary_key=True),
            sa.Column("user", sa.String(255), primary_key=True, index=True),
            sa.Column("unversioned", sa.String(255), nullable=False, index=True),
            sa.Column("expire_us", sa.BigInteger, nullable=False),
        )
