"""Putting the records of several datasets together, side by side in order of id."""

import hashlib
from collections.abc import AsyncIterator, Sequence

from omnialign.errors import FailedPrecondition
from omnialign.v1.data_service_pb2 import DeriveDatasetResponse as Progress
from omnialign.v1.dataset_operations_pb2 import Merge
from omnialign.v1.record_pb2 import Record
from services.data.operations.reading import Reader, Row, aligned

MERGED_FROM, RENAMED_FROM = "merged_from", "renamed_from"
"""The labels with the source of a record, and with the id that it had there if that was taken."""
SHOWN_IDS, SHOWN_CHARACTERS = 3, 60
MAX_ID_CHARACTERS = 200


async def merged(
    reader: Reader, sources: Sequence[str], wanted: Merge, progress: Progress
) -> AsyncIterator[list[Record]]:
    """The records of all sources. Equal ones are one; different ones with the same id are treated as wanted.

    Raises MERGE_CONFLICT, once all are counted.
    """
    refuses, examples = wanted.on_conflict == Merge.ON_CONFLICT_UNSPECIFIED, list[str]()
    async for rows in aligned([reader.batches(source) for source in sources]):
        batch = list[Record]()
        for row in rows:
            found = _different(row)
            if len(found) > 1:
                progress.conflict_count += 1
                if len(examples) < SHOWN_IDS:
                    examples.append(repr(found[0][1].id[:SHOWN_CHARACTERS]))
            batch += _settled(found, sources, wanted.on_conflict)
        yield [] if refuses and examples else batch
    if refuses and examples:
        raise _conflict(progress.conflict_count, examples)


def _conflict(count: int, examples: Sequence[str]) -> FailedPrecondition:
    ids = f"The id {examples[0]} stands" if count == 1 else f"{count} ids, such as {', '.join(examples)}, stand"
    message = f"{ids} for different records in the sources: set on_conflict to keep-first, keep-last or rename."
    where = ("merge.on_conflict", "must say what to do about different records with the same id")
    metadata = {"conflicts": str(count)}
    return FailedPrecondition(message, reason="MERGE_CONFLICT", metadata=metadata, violations=[where])


def _different(row: Row) -> list[tuple[int, Record]]:
    """The different records of a row, each with the number of its first source."""
    found = list[tuple[int, Record]]()
    for place, record in enumerate(row):
        if record is not None and all(record != other for _, other in found):
            found.append((place, record))
    return found


def _settled(found: list[tuple[int, Record]], sources: Sequence[str], on_conflict: int) -> list[Record]:
    if on_conflict == Merge.ON_CONFLICT_KEEP_LAST:
        kept = found[-1:]
    elif on_conflict == Merge.ON_CONFLICT_RENAME:
        kept = found
    else:
        kept = found[:1]
    for number, (place, record) in enumerate(kept):
        record.labels[MERGED_FROM] = sources[place]
        if number:
            record.labels[RENAMED_FROM] = record.id
            record.id = _renamed(record.id, sources[place])
    return [record for _, record in kept]


def _renamed(record_id: str, source: str) -> str:
    """Another id for a record, always the same; with 64 random bits, so that no other record has it."""
    ending = "-" + hashlib.blake2b(f"{source}\0{record_id}".encode(), digest_size=8).hexdigest()
    return record_id[: MAX_ID_CHARACTERS - len(ending)] + ending
