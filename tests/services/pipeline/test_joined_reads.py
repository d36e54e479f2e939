"""Reads that begin at the same time are one, and each reader gets what it asked for."""

import asyncio
from collections.abc import Sequence
from types import SimpleNamespace
from typing import cast

import pytest

from omnialign.errors import Unavailable
from services.pipeline import joined_reads
from services.pipeline.joined_reads import JoinedReads
from services.pipeline.kind import JobContext, Record, Records


def job(uid: str = "job") -> JobContext:
    return cast(JobContext, SimpleNamespace(uid=uid))


class Source:
    """A data service that has all records but `r9`."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str, list[str]]] = []
        self.error: Exception | None = None
        self.began, self.may_answer, self.was_cancelled = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.may_answer.set()

    async def read(self, context: JobContext, dataset: str, ids: Sequence[str]) -> Records:
        self.asked.append((context.uid, dataset, list(ids)))
        self.began.set()
        try:
            await self.may_answer.wait()
        except asyncio.CancelledError:
            self.was_cancelled.set()
            raise
        if self.error is not None:
            raise self.error
        return [Record(id=name) for name in sorted(ids, reverse=True) if name != "r9"]


async def test_reads_of_one_turn_are_one_and_each_reader_gets_its_records_in_order() -> None:
    source = Source()
    reads = JoinedReads(source.read)
    wanted: list[list[str]] = [["r1", "r9", "r3"], ["r2", "r0"], []]
    found = await asyncio.gather(*(reads.read(job(), "table", ids) for ids in wanted))
    assert [[record.id for record in records] for records in found] == [["r1", "r3"], ["r0", "r2"], []]
    assert source.asked == [("job", "table", ["r1", "r9", "r3", "r2", "r0"])]


async def test_reads_of_other_jobs_tables_and_turns_are_others() -> None:
    source = Source()
    reads = JoinedReads(source.read)
    places = ((job(), "table"), (job("other"), "table"), (job(), "other"))
    await asyncio.gather(*(reads.read(context, table, ["r1"]) for context, table in places))
    await reads.read(job(), "table", ["r2"])
    asked = [("job", "table", ["r1"]), ("other", "table", ["r1"]), ("job", "other", ["r1"]), ("job", "table", ["r2"])]
    assert source.asked == asked


async def test_a_read_has_no_more_ids_than_a_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(joined_reads, "MAX_IDS", 4)
    source = Source()
    reads = JoinedReads(source.read)
    lists = (["a", "b"], ["c", "d"], ["e", "f", "g", "h", "i"], ["j"])
    found = await asyncio.gather(*(reads.read(job(), "table", ids) for ids in lists))
    assert [[record.id for record in records] for records in found] == list(lists)
    assert [ids for _, _, ids in source.asked] == [["a", "b", "c", "d"], ["e", "f", "g", "h", "i"], ["j"]]


async def test_an_error_reaches_all_readers_and_not_the_next_one() -> None:
    source = Source()
    reads = JoinedReads(source.read)
    source.error = Unavailable("away")
    found = await asyncio.gather(*(reads.read(job(), "t", [name]) for name in "ab"), return_exceptions=True)
    assert found == [source.error, source.error]
    source.error = None
    assert [record.id for record in await reads.read(job(), "t", ["a"])] == ["a"]


async def test_a_reader_that_is_cancelled_leaves_the_others_their_records() -> None:
    source = Source()
    reads = JoinedReads(source.read)
    source.may_answer.clear()
    first, second = (asyncio.create_task(reads.read(job(), "t", [name])) for name in "ab")
    await source.began.wait()
    first.cancel()
    await asyncio.wait({first})
    source.may_answer.set()
    assert [record.id for record in await second] == ["b"]
    assert not source.was_cancelled.is_set()


async def test_a_read_for_which_nobody_waits_any_more_ends() -> None:
    source = Source()
    reads = JoinedReads(source.read)
    source.may_answer.clear()
    readers = [asyncio.create_task(reads.read(job(), "t", [name])) for name in "ab"]
    await source.began.wait()
    for reader in readers:
        reader.cancel()
    await asyncio.wait(readers)
    await source.was_cancelled.wait()


async def test_a_read_whose_only_reader_is_cancelled_before_it_begins_takes_no_other_along() -> None:
    source = Source()
    reads = JoinedReads(source.read)
    first = asyncio.create_task(reads.read(job(), "t", ["a"]))
    asyncio.get_running_loop().call_soon(first.cancel)  # runs between the reader and its read
    await asyncio.wait({first})
    assert [record.id for record in await reads.read(job(), "t", ["b"])] == ["b"]
    assert source.asked == [("job", "t", ["b"])]
