"""The tables of the first release."""

import sqlalchemy as sa
from alembic import op

revision, down_revision = "0001", None


def upgrade() -> None:
    """Makes the tables."""
    op.create_table(
        "annotation_campaigns",
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("parent", sa.String(80), nullable=False),
        sa.Column("created_us", sa.BigInteger, nullable=False),
        sa.Column("request", sa.String(255), nullable=True, unique=True),
        sa.Column("digest", sa.String(64), nullable=False),
        sa.Column("left_out_count", sa.BigInteger, nullable=False),
        sa.Column("message", sa.LargeBinary, nullable=False),
    )
    op.create_index("ix_annotation_campaigns_parent", "annotation_campaigns", ["parent"])
    op.create_table(
        "annotation_items",
        sa.Column("campaign", sa.String(255), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("record", sa.String(200), nullable=False),
        sa.Column("subtask", sa.String(32), nullable=False),
        sa.Column("shape", sa.String(1024), nullable=False),
        sa.Column("known", sa.Integer, nullable=False),
        sa.Column("num_seats", sa.Integer, nullable=False),
        sa.Column("flagged", sa.Boolean, nullable=False),
        sa.Column("adjudication", sa.LargeBinary, nullable=True),
    )
    op.create_table(
        "annotation_seats",
        sa.Column("campaign", sa.String(255), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("seat", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("annotator", sa.String(200), nullable=True),
        sa.Column("expires_us", sa.BigInteger, nullable=False),
        sa.Column("submitted", sa.Boolean, nullable=False),
        sa.UniqueConstraint("campaign", "number", "annotator", name="uq_annotation_seats_annotator"),
    )
    order = ["campaign", "submitted", "rank", "number", "seat"]
    op.create_index("ix_annotation_seats_order", "annotation_seats", order)
    op.create_index("ix_annotation_seats_annotator", "annotation_seats", ["campaign", "annotator"])
    op.create_table(
        "annotation_answers",
        sa.Column("campaign", sa.String(255), primary_key=True),
        sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
        sa.Column("annotator", sa.String(200), primary_key=True),
        sa.Column("state", sa.Integer, nullable=False),
        sa.Column("revision", sa.BigInteger, nullable=False),
        sa.Column("preferred", sa.Integer, nullable=False),
        sa.Column("message", sa.LargeBinary, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("request_id", sa.String(36), nullable=False),
        sa.Column("updated_us", sa.BigInteger, nullable=False),
    )
    op.create_index("ix_annotation_answers_annotator", "annotation_answers", ["campaign", "annotator", "state"])
    op.create_table(
        "annotation_annotators",
        sa.Column("campaign", sa.String(255), primary_key=True),
        sa.Column("annotator", sa.String(200), primary_key=True),
    )
