"""Filtering, drawing a sample, and dividing into splits. Each yields records in batches, empty ones as it looks ahead.

What depends on all records is found in a first pass, which keeps a number of 64 bits of each.
"""

from array import array
from collections.abc import AsyncIterator, Sequence

import numpy as np
from numpy.typing import NDArray

from omnialign.errors import FailedPrecondition, InvalidArgument
from omnialign.v1.data_service_pb2 import RecordFilter
from omnialign.v1.dataset_operations_pb2 import Sample, Split
from omnialign.v1.record_pb2 import Record
from services.data.operations.content import content_key, draw
from services.data.operations.reading import Reader
from services.data.record_filter import matcher
from services.data.selection import Selection

FORMER_SPLIT = "former_split"
"""The label with the split that a record had before it was given another."""
SHARE_SLACK = 1e-6


async def filtered(reader: Reader, source: str, wanted: RecordFilter) -> AsyncIterator[list[Record]]:
    """The records that meet a condition."""
    matches = matcher(wanted)
    selection = Selection(subtasks=tuple(wanted.subtasks), splits=tuple(wanted.splits))
    async for batch in reader.batches(source, selection):
        yield batch if matches is None else [record for record in batch if matches(record)]


async def sampled(reader: Reader, source: str, wanted: Sample) -> AsyncIterator[list[Record]]:
    """As many records as wanted: those whose draws are lowest. Raises SAMPLE_TOO_LARGE."""
    draws = array("Q")
    async for batch in reader.batches(source):
        draws.extend(draw(wanted.seed, record.id.encode()) for record in batch)
        yield []
    if len(draws) < wanted.count:
        message = f"{source} has {len(draws)} records, and a sample of {wanted.count} was asked for: ask for fewer."
        raise FailedPrecondition(message, reason="SAMPLE_TOO_LARGE", metadata={"records": str(len(draws))})
    highest = int(np.partition(np.frombuffer(draws, dtype=np.uint64), wanted.count - 1)[wanted.count - 1])
    async for batch in reader.batches(source):
        yield [record for record in batch if draw(wanted.seed, record.id.encode()) <= highest]


async def divided(reader: Reader, source: str, wanted: Split) -> AsyncIterator[list[Record]]:
    """All records, each with its split; what it had before becomes the label `former_split`."""
    names, ends = [one.split for one in wanted.shares], split_ends(wanted)
    sides: tuple[NDArray[np.uint64], NDArray[np.intp]] | None = None
    if not wanted.stable:
        draws, strata, subtasks = array("Q"), array("I"), dict[str, int]()
        async for batch in reader.batches(source):
            draws.extend(_draw(wanted, record) for record in batch)
            strata.extend(subtasks.setdefault(record.subtask, len(subtasks)) for record in batch)
            yield []
        sides = _sides(np.frombuffer(draws, dtype=np.uint64), np.frombuffer(strata, dtype=np.uint32), ends)
    async for batch in reader.batches(source):
        found = np.array([_draw(wanted, record) for record in batch], dtype=np.uint64)
        if sides is None:
            places = np.searchsorted(ends, found / 2.0**64, side="right")
        else:
            places = sides[1][np.searchsorted(sides[0], found)]
        for record, place in zip(batch, places.tolist(), strict=True):
            _assign(record, names[place])
        yield batch


def _draw(wanted: Split, record: Record) -> int:
    return draw(wanted.seed, content_key(record, prompt_only=True))


def _assign(record: Record, split: str) -> None:
    if record.split and record.split != split:
        record.labels[FORMER_SPLIT] = record.split
    record.split = split


def split_ends(wanted: Split) -> NDArray[np.float64]:
    """Where each split but the last ends between 0 and 1. Raises SHARES_INVALID."""
    names: Sequence[str] = [one.split for one in wanted.shares]
    total = sum(one.share for one in wanted.shares)
    problem = ""
    if len(set(names)) < len(names):
        problem = "names a split twice"
    elif abs(total - 1) > SHARE_SLACK:
        problem = f"must add up to 1, not {total:g}"
    if problem:
        where = "split.shares"
        raise InvalidArgument(f"{where} {problem}", reason="SHARES_INVALID", violations=[(where, problem)])
    return np.cumsum([one.share for one in wanted.shares])[:-1]


def _sides(
    draws: NDArray[np.uint64], strata: NDArray[np.uint32], ends: NDArray[np.float64]
) -> tuple[NDArray[np.uint64], NDArray[np.intp]]:
    """The draws of all prompts, sorted, and the number of the split of each.

    Records with one prompt are a group, which no border cuts. The groups of a subtask, or of those that share it, are
    lined up in the order of their draws and cut where the shares say.
    """
    groups, members = np.unique(draws, return_inverse=True)
    sizes = np.bincount(members, minlength=len(groups))
    lowest = np.full(len(groups), np.iinfo(np.uint32).max, dtype=np.uint32)
    highest = np.zeros(len(groups), dtype=np.uint32)
    np.minimum.at(lowest, members, strata)
    np.maximum.at(highest, members, strata)
    stratum = lowest.astype(np.uint64) << np.uint64(32) | highest
    sides = np.zeros(len(groups), dtype=np.intp)
    for one in np.unique(stratum):
        places = np.flatnonzero(stratum == one)
        reached = np.cumsum(sizes[places])
        sides[places] = np.searchsorted(ends, (reached - sizes[places] / 2) / reached[-1], side="right")
    return groups, sides
