"""The tables of the first release."""

from alembic import op

from services.pipeline.schema import tables

revision, down_revision = "0001", None


def upgrade() -> None:
    """Makes the tables."""
    tables("evaluation").metadata.create_all(op.get_bind())
