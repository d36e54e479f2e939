"""Group commit: joined, ordered, isolated, interruptible."""

import asyncio
import gc
import weakref
from collections.abc import Sequence
from typing import Any

import pytest

from omnialign.v1.record_pb2 import Record
from services.pipeline.group_commit import GroupCommitter, Makers, TableWriter


class Sink:
    """Takes what is committed; the first commit waits until it is let go."""

    def __init__(self) -> None:
        self.commits: list[list[int]] = []
        self.free = asyncio.Event()

    async def __call__(self, items: Sequence[int]) -> None:
        self.commits.append(list(items))
        await self.free.wait()
        if 13 in self.commits[-1]:
            raise ValueError("thirteen")


async def test_what_comes_during_a_write_goes_out_together() -> None:
    sink = Sink()
    grouped = GroupCommitter(sink, limit=10, makers=Makers())
    writers = [asyncio.create_task(grouped.add([number])) for number in range(4)]
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    sink.free.set()
    await asyncio.gather(*writers)
    assert sink.commits == [[0, 1, 2, 3]] or sink.commits == [[0], [1, 2, 3]]


async def test_a_group_keeps_within_its_limit() -> None:
    sink = Sink()
    sink.free.set()
    grouped = GroupCommitter(sink, limit=3, makers=Makers())
    await asyncio.gather(*(grouped.add([number, number]) for number in range(4)))
    assert all(len(commit) <= 3 for commit in sink.commits)
    assert sorted(item for commit in sink.commits for item in commit) == [0, 0, 1, 1, 2, 2, 3, 3]


async def test_a_write_right_after_another_waits_for_company_and_one_after_a_while_does_not() -> None:
    sink, loop = Sink(), asyncio.get_running_loop()
    sink.free.set()
    makers = Makers()
    grouped = GroupCommitter(sink, limit=10, makers=makers, pause_seconds=0.05)
    begun = loop.time()
    with makers.working():
        await grouped.add([1])
        await asyncio.gather(*(grouped.add([number]) for number in (2, 3, 4)))
    assert sink.commits == [[1], [2, 3, 4]]
    assert loop.time() - begun >= 0.05


async def test_the_wait_for_company_is_longer_after_a_write_that_took_long() -> None:
    async def commit(items: Sequence[int]) -> None:
        begun.append(loop.time())
        await asyncio.sleep(0.02)
        ended.append(loop.time())

    loop, makers, begun, ended = asyncio.get_running_loop(), Makers(), list[float](), list[float]()
    grouped = GroupCommitter(commit, limit=10, makers=makers, pause_seconds=0.001)
    with makers.working():
        await grouped.add([1])
        await grouped.add([2])
    assert begun[1] - ended[0] >= 3.9 * (ended[0] - begun[0])


async def test_a_write_waits_for_company_only_while_somebody_is_at_work() -> None:
    sink, makers = Sink(), Makers()
    sink.free.set()
    grouped = GroupCommitter(sink, limit=10, makers=makers, pause_seconds=3600)
    await grouped.add([1])

    async def make(number: int) -> None:
        with makers.working():
            await asyncio.sleep(0)
            await asyncio.sleep(0)
        await grouped.add([number])

    early = asyncio.create_task(grouped.add([2]))
    await asyncio.gather(make(3), make(4))
    await early
    assert sink.commits == [[1], [2, 3, 4]]
    await grouped.add([5])
    assert sink.commits[-1] == [5]


async def test_only_the_writer_of_bad_items_hears_of_them() -> None:
    sink = Sink()
    sink.free.set()
    grouped = GroupCommitter(sink, limit=10, makers=Makers())
    outcomes = await asyncio.gather(*(grouped.add([number]) for number in (1, 13, 2)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [type(None), ValueError, type(None)]


async def test_an_interrupted_writer_does_not_harm_the_others() -> None:
    sink = Sink()
    grouped = GroupCommitter(sink, limit=10, makers=Makers())
    first = asyncio.create_task(grouped.add([1]))
    await asyncio.sleep(0)
    second, third = asyncio.create_task(grouped.add([2])), asyncio.create_task(grouped.add([3]))
    await asyncio.sleep(0)
    second.cancel()
    sink.free.set()
    await asyncio.gather(first, third)
    with pytest.raises(asyncio.CancelledError):
        await second


async def test_a_writer_who_gave_up_is_not_written_for_alone_after_the_group_failed() -> None:
    async def commit(items: Sequence[int]) -> None:
        commits.append(list(items))
        if len(commits) == 2:
            other.cancel()  # as of a job that has ended meanwhile
            await asyncio.sleep(0)
        raise ValueError("full")

    commits = list[list[int]]()
    grouped = GroupCommitter(commit, limit=10, makers=Makers())
    first, other = (asyncio.create_task(grouped.add([number])) for number in (1, 2))
    outcomes = await asyncio.gather(first, other, return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [ValueError, asyncio.CancelledError]
    assert commits == [[1, 2], [1]]


class OneJob:
    """A job at work, as far as a writer of tables asks."""

    uid = "uid-1"


async def test_nothing_is_kept_of_a_job_that_is_forgotten_but_what_is_being_written() -> None:
    async def append(context: Any, name: str, records: Sequence[Record]) -> None:
        written.append(name)
        await free.wait()

    context, free, written = OneJob(), asyncio.Event(), list[str]()
    writer, kept = TableWriter(append, Makers()), weakref.ref(context)
    waiting = asyncio.create_task(writer.write(context, "table", [Record(id="a")]))
    await asyncio.sleep(0)
    writer.forget("uid-1")
    free.set()
    await waiting
    del context, waiting
    writer.forget("uid-2")
    gc.collect()
    assert kept() is not None
    writer.forget("uid-1")
    gc.collect()
    assert kept() is None and written == ["table"]


async def test_closing_cancels_who_waits() -> None:
    grouped = GroupCommitter(Sink(), limit=10, makers=Makers())
    writer = asyncio.create_task(grouped.add([1]))
    await asyncio.sleep(0)
    await grouped.close()
    with pytest.raises(asyncio.CancelledError):
        await writer
