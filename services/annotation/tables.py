"""The tables of campaigns, and the revisions that make them.

A campaign has items, which are its pairs, numbered from 1 in order of record id; an item has seats, numbered from 1; an
answer is what an annotator wrote about an item, draft or not. A seat that nobody holds has no annotator.
"""

from pathlib import Path

import sqlalchemy as sa

from services.runtime.migrations import Migrations

METADATA = sa.MetaData()
CAMPAIGNS = sa.Table(
    "annotation_campaigns",
    METADATA,
    sa.Column("name", sa.String(255), primary_key=True),
    sa.Column("parent", sa.String(80), nullable=False, index=True),
    sa.Column("created_us", sa.BigInteger, nullable=False),
    sa.Column("request", sa.String(255), nullable=True, unique=True),
    sa.Column("digest", sa.String(64), nullable=False),
    sa.Column("left_out_count", sa.BigInteger, nullable=False),
    sa.Column("message", sa.LargeBinary, nullable=False),
)
ITEMS = sa.Table(
    "annotation_items",
    METADATA,
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
SEATS = sa.Table(
    "annotation_seats",
    METADATA,
    sa.Column("campaign", sa.String(255), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    sa.Column("seat", sa.Integer, primary_key=True, autoincrement=False),
    sa.Column("rank", sa.Integer, nullable=False),
    sa.Column("annotator", sa.String(200), nullable=True),
    sa.Column("expires_us", sa.BigInteger, nullable=False),
    sa.Column("submitted", sa.Boolean, nullable=False),
    sa.UniqueConstraint("campaign", "number", "annotator", name="uq_annotation_seats_annotator"),
    sa.Index("ix_annotation_seats_order", "campaign", "submitted", "rank", "number", "seat"),
    sa.Index("ix_annotation_seats_annotator", "campaign", "annotator"),
)
ANSWERS = sa.Table(
    "annotation_answers",
    METADATA,
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
    sa.Column("swapped", sa.Boolean, nullable=False, server_default=sa.false()),
    sa.Index("ix_annotation_answers_annotator", "campaign", "annotator", "state"),
)
ANNOTATORS = sa.Table(
    "annotation_annotators",
    METADATA,
    sa.Column("campaign", sa.String(255), primary_key=True),
    sa.Column("annotator", sa.String(200), primary_key=True),
)
"""One row per annotator of a campaign: whoever changes something of theirs locks it first."""
DRAFTS = sa.Table(
    "annotation_drafts",
    METADATA,
    sa.Column("campaign", sa.String(255), primary_key=True),
    sa.Column("number", sa.BigInteger, primary_key=True, autoincrement=False),
    # SHA-256 of the model's name, which may be longer than a key can be.
    sa.Column("model_sha256", sa.String(64), primary_key=True),
    sa.Column("drafted_us", sa.BigInteger, nullable=False),
    sa.Column("message", sa.LargeBinary, nullable=False),
)
"""What models say of the items: a row for each model that was asked about one."""

MIGRATIONS = Migrations("annotation", Path(__file__).parent / "migrations", witness="annotation_campaigns")
