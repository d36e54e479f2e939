"""Whether an annotator saw the second response of a pair first."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0003", "0002"

KEEP_SIDES = b"\x78\x01"
"""`Campaign.keep_sides = true` on the wire; a field counts wherever in its message it stands."""


def upgrade() -> None:
    """Adds the column. In the campaigns that exist everybody sees the record's order, as those who have begun do."""
    swapped = sa.Column("swapped", sa.Boolean, nullable=False, server_default=sa.false())
    op.add_column("annotation_answers", swapped)
    campaigns = sa.table("annotation_campaigns", sa.column("name", sa.String), sa.column("message", sa.LargeBinary))
    connection = op.get_bind()
    for row in connection.execute(sa.select(campaigns)).all():
        change = campaigns.update().where(campaigns.c.name == row.name)
        connection.execute(change.values(message=row.message + KEEP_SIDES))
