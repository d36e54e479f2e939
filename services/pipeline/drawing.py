"""Subsets drawn from streams: in bounded memory, whatever the number of records, and the same whatever their order.

The ids with the smallest hashes are drawn (`planning.subset` is the same of a list). A first pass counts ids by the
leading bits of their hashes, which tells within which bucket the last one drawn is; a second one looks into that bucket
alone. What is drawn is then told by one comparison.

    drawn = await draw(ids, seed=seed, count=lambda total: total // 10)
    chosen = (record async for record in records() if drawn.takes(record.id))
"""

from collections import Counter
from collections.abc import AsyncIterable, AsyncIterator, Callable
from dataclasses import dataclass

from services.pipeline.planning import record_seed

HASH_BITS, BUCKET_BITS = 63, 12

Keyed = tuple[str, str]
"""An id, and the group in which it is counted, such as its subtask."""
Again = Callable[[Callable[[str], bool]], AsyncIterable[Keyed]]
"""The same ids once more; those for which the function is false may be left out."""


@dataclass(frozen=True)
class Drawn:
    """A subset of ids."""

    seed: int
    last: tuple[int, str] | None
    """Hash and id of the last one in order of hashes; None for all ids."""
    groups: Counter[str]
    """How many there are of each group."""
    of: int
    """The number of ids from which they were drawn."""

    @property
    def total(self) -> int:
        """How many there are."""
        return self.groups.total()

    def takes(self, record_id: str) -> bool:
        """Whether an id of the stream is in the subset."""
        return self.last is None or _key(self.seed, record_id) <= self.last


class Drawing:
    """Counts the ids of a stream, to draw from them."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._counts: Counter[tuple[int, str]] = Counter()  # by bucket and group

    def add(self, record_id: str, group: str = "") -> None:
        """Counts an id."""
        self._counts[_bucket(_key(self._seed, record_id)), group] += 1

    @property
    def total(self) -> int:
        """How many ids were counted."""
        return self._counts.total()

    async def close(self, again: Again, *, count: int) -> Drawn:
        """Draws `count` of the ids; all if there are no more. `again` is read only if there are."""
        if count >= self.total:
            return Drawn(self._seed, None, self._in_groups(lambda _: True), self.total)
        buckets, drawn, last = Counter[int](), 0, 0
        for (bucket, _), number in self._counts.items():
            buckets[bucket] += number
        for last in sorted(buckets):
            if drawn + buckets[last] >= count:
                break
            drawn += buckets[last]

        def is_near(record_id: str) -> bool:
            return _bucket(_key(self._seed, record_id)) == last

        near = [(_key(self._seed, i), group) async for i, group in again(is_near) if is_near(i)]
        chosen = sorted(near)[: count - drawn]
        groups = self._in_groups(lambda bucket: bucket < last)
        groups.update(group for _, group in chosen)
        return Drawn(self._seed, chosen[-1][0] if chosen else (-1, ""), groups, self.total)

    def _in_groups(self, wanted: Callable[[int], bool]) -> Counter[str]:
        groups = Counter[str]()
        for (bucket, group), number in self._counts.items():
            groups[group] += number if wanted(bucket) else 0
        return +groups


async def draw(ids: Callable[[], AsyncIterator[str]], *, seed: int, count: Callable[[int], int]) -> Drawn:
    """As many ids of a stream, which can be read again, as `count` says of their number."""

    async def again(is_near: Callable[[str], bool]) -> AsyncIterator[Keyed]:
        async for record_id in ids():
            yield record_id, ""

    drawing = Drawing(seed)
    async for record_id in ids():
        drawing.add(record_id)
    return await drawing.close(again, count=count(drawing.total))


def _key(seed: int, record_id: str) -> tuple[int, str]:
    return record_seed(seed, stage="subset", record_id=record_id), record_id


def _bucket(key: tuple[int, str]) -> int:
    return key[0] >> (HASH_BITS - BUCKET_BITS)
