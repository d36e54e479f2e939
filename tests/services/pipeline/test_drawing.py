"""Subsets that are drawn from streams, and chunks that are planned from them: the same as from lists."""

from collections import Counter
from collections.abc import AsyncIterator, Callable

import pytest

from services.pipeline.drawing import Drawing, Keyed, draw
from services.pipeline.planning import plan_chunks, streamed, subset

IDS = [f"r{number}" for number in range(5000)]


@pytest.mark.parametrize("count", [0, 1, 2, 3, 4, 5, 6, 499, 4999, 5000, 9000])
async def test_what_is_drawn_from_a_stream_is_the_subset_of_the_list(count: int) -> None:
    for ids in (IDS, IDS[::-1]):
        drawn = await draw(lambda ids=ids: streamed(ids), seed=7, count=lambda total: count)  # type: ignore[misc]
        assert sorted(filter(drawn.takes, IDS)) == subset(IDS, seed=7, count=count)
        assert (drawn.total, drawn.of) == (min(count, len(IDS)), len(IDS))


async def test_of_no_ids_none_are_drawn() -> None:
    drawn = await draw(lambda: streamed([]), seed=7, count=lambda total: 3)
    assert (drawn.total, drawn.of) == (0, 0)


async def test_those_drawn_are_counted_by_group_and_few_are_looked_at_twice() -> None:
    def group(record_id: str) -> str:
        return f"g{int(record_id[1:]) % 3}"

    async def again(is_near: Callable[[str], bool]) -> AsyncIterator[Keyed]:
        for record_id in filter(is_near, IDS):
            looked_at.append(record_id)
            yield record_id, group(record_id)

    drawing, looked_at = Drawing(7), list[str]()
    for record_id in IDS:
        drawing.add(record_id, group(record_id))
    drawn = await drawing.close(again, count=1000)
    assert drawn.groups == Counter(map(group, subset(IDS, seed=7, count=1000)))
    assert len(looked_at) < 30


async def test_chunks_hold_neighbours_of_one_subtask_and_each_record_once() -> None:
    records = [(f"r{number:02d}", "t2i" if number % 3 else "t2t") for number in range(20)]
    chunks = [chunk async for chunk in plan_chunks(streamed(records), size=4)]
    assert sorted(map(len, chunks)) == [1, 3, 4, 4, 4, 4]
    of = dict(records)
    assert all(len({of[record_id] for record_id in chunk}) == 1 for chunk in chunks)
    for subtask in ("t2i", "t2t"):
        ids = [record_id for chunk in chunks for record_id in chunk if of[record_id] == subtask]
        assert ids == [record_id for record_id, name in records if name == subtask]
