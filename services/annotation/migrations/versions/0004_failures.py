"""What ended a chunk is found without looking at all chunks of its job."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0004", "0003"


def upgrade() -> None:
    """Makes the index, unless the table was made with it."""
    failed = sa.text("failure IS NOT NULL")
    op.create_index(
        "drafting_failures",
        "drafting_chunks",
        ["uid", "phase", "number"],
        sqlite_where=failed,
        postgresql_where=failed,
        if_not_exists=True,
    )
