"""Counts how often a job was taken up without progress, so that one that ends its process each time is given up."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0003", "0002"


def upgrade() -> None:
    """Makes the columns, unless the tables were made with them."""
    found = {column["name"] for column in sa.inspect(op.get_bind()).get_columns("alignment_jobs")}
    for name, kind in (("starts", sa.Integer), ("starts_sequence", sa.BigInteger)):
        if name not in found:
            op.add_column("alignment_jobs", sa.Column(name, kind, nullable=False, server_default="0"))
