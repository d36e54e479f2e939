"""Records as rows of a table."""

import hashlib
from collections.abc import Iterable

import pyarrow as pa

from omnialign.v1 import record_pb2
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


def to_arrow(records: Iterable[record_pb2.Record]) -> pa.Table:
    """The records as rows; of several with one id, the last counts. Equal records have equal bytes."""
    latest = {record.id: record for record in records}
    blobs = [record.SerializeToString(deterministic=True) for record in latest.values()]
    columns = {
        "id": list(latest),
        "subtask": [record.subtask for record in latest.values()],
        "split": [record.split for record in latest.values()],
        "hash": [id_hash(name) for name in latest],
        "fingerprint": [_number(blob) for blob in blobs],
        "size": [len(blob) for blob in blobs],
        "record": blobs,
        "media": [digests_of(r) if DIGEST_HEAD in b else b"" for r, b in zip(latest.values(), blobs, strict=True)],
    }
    return pa.table(columns, schema=SCHEMA)


def id_hash(record_id: str) -> int:
    """A number from 0 to 2^63 - 1 by which an id is found and its shard decided, the same on every machine."""
    return _number(record_id.encode())


def state(record: record_pb2.Record) -> tuple[int, int]:
    """What tells a record, unchanged, in a table: the hash of its id, and that of its bytes."""
    return id_hash(record.id), _number(record.SerializeToString(deterministic=True))


def _number(data: bytes) -> int:
    return int.from_bytes(hashlib.sha256(data).digest()[:8], "big") >> 1
