"""Records as rows of a table."""

import hashlib
from collections.abc import Iterable
from typing import NamedTuple

import pyarrow as pa

from omnialign.v1.record_pb2 import Record
from services.data.binary_form import head
from services.data.stored_records import DIGEST_HEAD, digests_of

SCHEMA = pa.schema(
    [
        pa.field("id", pa.string(), nullable=False, metadata={"lance-schema:unenforced-primary-key": "true"}),
        pa.field("subtask", pa.string(), nullable=False),
        pa.field("split", pa.string(), nullable=False),
        pa.field("hash", pa.int64(), nullable=False),
        pa.field("fingerprint", pa.int64(), nullable=False),
        pa.field("size", pa.int64(), nullable=False),
        pa.field("record", pa.binary(), nullable=False),
        pa.field("media", pa.binary()),
    ]
)
"""The columns of a table. One that was made before `media` has the others, and goes on without it."""


class RecordRow(NamedTuple):
    """A record as a row: the columns of `SCHEMA`. Equal records have equal bytes."""

    id: str
    subtask: str
    split: str
    hash: int
    fingerprint: int
    """With `hash`, this tells the record, unchanged, in a table: they are of its id and of its bytes."""
    size: int
    record: bytes
    media: bytes | None


class UnnamedRow(NamedTuple):
    """A record that has no id yet, as what is known of its row."""

    subtask: str
    split: str
    record: bytes
    media: bytes | None

    @classmethod
    def of(cls, record: Record) -> "UnnamedRow":
        """The row of a record without an id."""
        blob = record.SerializeToString(deterministic=True)
        return cls(record.subtask, record.split, blob, digests_of(record) if DIGEST_HEAD in blob else b"")

    def named(self, name: str) -> RecordRow:
        """The row of the record with an id: that is its first field."""
        encoded = name.encode()
        blob = b"".join((head(Record.ID_FIELD_NUMBER, len(encoded)), encoded, self.record))
        return RecordRow(name, self.subtask, self.split, id_hash(name), _number(blob), len(blob), blob, self.media)


def row_of(record: Record) -> RecordRow:
    """The row of a record."""
    subtask, split, blob, media = UnnamedRow.of(record)
    return RecordRow(record.id, subtask, split, id_hash(record.id), _number(blob), len(blob), blob, media)


def to_arrow(rows: Iterable[RecordRow]) -> pa.Table:
    """Rows as a table; of several with one id, the last counts."""
    latest = {row.id: row for row in rows}
    if not latest:
        return SCHEMA.empty_table()
    columns = zip(*latest.values(), strict=True)
    arrays = [pa.array(column, field.type) for column, field in zip(columns, SCHEMA, strict=True)]
    return pa.Table.from_arrays(arrays, schema=SCHEMA)


def id_hash(record_id: str) -> int:
    """A number from 0 to 2^63 - 1 by which an id is found and its shard decided, the same on every machine."""
    return _number(record_id.encode())


def _number(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") >> 1
