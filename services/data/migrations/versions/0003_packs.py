"""Notes where small media lie in packs."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0003", "0002"


def upgrade() -> None:
    """Makes the table, unless it is there."""
    if sa.inspect(op.get_bind()).has_table("packed_media"):
        return
    op.create_table(
        "packed_media",
        sa.Column("sha256", sa.LargeBinary(32), primary_key=True),
        sa.Column("pack", sa.LargeBinary(32), nullable=False),
        sa.Column("offset", sa.BigInteger, nullable=False),
        sa.Column("size_bytes", sa.BigInteger, nullable=False),
        sa.Column("mime_type", sa.String(255), nullable=False),
    )
    op.create_index("ix_packed_media_pack", "packed_media", ["pack"])
