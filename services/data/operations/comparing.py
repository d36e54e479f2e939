"""The differences between two datasets, found by reading both in order of id at the same time."""

from collections.abc import AsyncIterator, Iterator
from itertools import islice

from google.protobuf.message import Message

from omnialign.v1.data_service_pb2 import CompareDatasetsRequest, CompareDatasetsResponse
from omnialign.v1.dataset_operations_pb2 import RecordDifference
from omnialign.v1.record_pb2 import Record
from services.data.datasets import Datasets
from services.data.operations.reading import aligned
from services.data.selection import Selection

LISTED = 1000
"""Differences that are listed unless the caller says how many."""
MAX_FIELDS = 32


async def differences(datasets: Datasets, request: CompareDatasetsRequest) -> AsyncIterator[CompareDatasetsResponse]:
    """The differences batch by batch, with the counts so far; the counts of the last message are those of all."""
    left, counts = request.limit or LISTED, CompareDatasetsResponse()
    streams = [datasets.stream(name, Selection()) for name in (request.source, request.other)]
    async for rows in aligned(streams):
        del counts.differences[:]
        for one, other in rows:
            kind = _kind(one, other)
            _count(counts, kind)
            if kind and left:
                left -= 1
                counts.differences.append(_difference(kind, one, other))
        yield counts
    del counts.differences[:]
    yield counts


def _kind(one: Record | None, other: Record | None) -> RecordDifference.Kind.ValueType | None:
    if one is None:
        return RecordDifference.KIND_ADDED
    if other is None:
        return RecordDifference.KIND_REMOVED
    return None if one == other else RecordDifference.KIND_CHANGED


def _count(counts: CompareDatasetsResponse, kind: RecordDifference.Kind.ValueType | None) -> None:
    counts.added_count += kind == RecordDifference.KIND_ADDED
    counts.removed_count += kind == RecordDifference.KIND_REMOVED
    counts.changed_count += kind == RecordDifference.KIND_CHANGED
    counts.equal_count += kind is None


def _difference(kind: RecordDifference.Kind.ValueType, one: Record | None, other: Record | None) -> RecordDifference:
    name = next(record.id for record in (one, other) if record is not None)
    fields = changed_fields(one, other) if one is not None and other is not None else iter(())
    return RecordDifference(id=name, kind=kind, fields=islice(fields, MAX_FIELDS))


def changed_fields(one: Message, other: Message, path: str = "") -> Iterator[str]:
    """The paths of the fields in which two messages of one type differ; of a list whose length differs, its own."""
    for field in one.DESCRIPTOR.fields:
        name, before, after = path + field.name, getattr(one, field.name), getattr(other, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            changed = sorted(key for key in {*before, *after} if before.get(key) != after.get(key))
            yield from (f"{name}[{key}]" for key in changed)
        elif field.is_repeated:
            if len(before) != len(after) or field.message_type is None:
                yield from [name] if before != after else []
                continue
            for place, (earlier, later) in enumerate(zip(before, after, strict=True)):
                yield from changed_fields(earlier, later, f"{name}[{place}].")
        elif field.has_presence and one.HasField(field.name) != other.HasField(field.name):
            yield name
        elif field.message_type is not None:
            yield from changed_fields(before, after, f"{name}.")
        elif before != after:
            yield name
