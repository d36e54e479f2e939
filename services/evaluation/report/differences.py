"""On which items two models differ most, told from scored records that are seen one by one."""

import heapq
from array import array
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from services.evaluation.report.cards import share
from services.evaluation.samples import key_of
from services.evaluation.works import ABLATED, BENCHMARK, group_of, item_of
from services.pipeline.kind import Record

ITEMS_SHOWN = 3
"""Items with all their media, for each group of a benchmark."""
ITEMS_TOLD = 100
"""Items in the JSON."""

ItemKey = tuple[str, int]
"""A benchmark, and the key of an item (`samples.key_of`)."""


@dataclass
class Shares:
    """Which share of the best score one model reached on items, by each judge."""

    keys: "array[int]" = field(default_factory=lambda: array("Q"))
    reached: "array[float]" = field(default_factory=lambda: array("d"))

    def add(self, item: str, reached: float) -> None:
        """Takes in what one judge gave."""
        self.keys.append(key_of(item))
        self.reached.append(reached)

    def means(self) -> tuple[NDArray[np.uint64], NDArray[np.float64]]:
        """The items in order of key, and the mean over the judges on each."""
        keys, places = np.unique(np.array(self.keys, dtype=np.uint64), return_inverse=True)
        return keys, np.bincount(places, weights=np.array(self.reached)) / np.bincount(places)


class Differences:
    """The items on which the second of two models is farthest from the first; 16 bytes are kept of each record."""

    def __init__(self) -> None:
        self._shares: dict[tuple[str, str], tuple[Shares, Shares]] = {}
        """Of each of the two, by benchmark and group."""

    def add(self, record: Record, *, place: int) -> None:
        """Takes in a record of the first (0) or of the second (1)."""
        reached = share(record)
        if reached is not None and ABLATED not in record.labels:
            group = record.labels[BENCHMARK], group_of(record)
            self._shares.setdefault(group, (Shares(), Shares()))[place].add(item_of(record), reached)

    def close(self) -> AbstractSet[ItemKey]:
        """The items that a report shows, or tells of."""
        shown, told = set[ItemKey](), list[tuple[float, ItemKey]]()
        for (benchmark, _), (first, second) in self._shares.items():
            ranked = [(distance, (benchmark, key)) for distance, key in _farthest(first, second)]
            shown.update(item for _, item in ranked[:ITEMS_SHOWN])
            told = heapq.nlargest(ITEMS_TOLD, [*told, *ranked])
        return shown.union(item for _, item in told)


def _farthest(first: Shares, second: Shares) -> list[tuple[float, int]]:
    """The largest distances other than 0, and the keys of their items, as many as a report may tell of."""
    (keys, means), (other_keys, other_means) = first.means(), second.means()
    both, places, other_places = np.intersect1d(keys, other_keys, assume_unique=True, return_indices=True)
    distances = np.abs(other_means[other_places] - means[places])
    order = np.argsort(-distances, kind="stable")[:ITEMS_TOLD]
    return [(float(distances[at]), int(both[at])) for at in order if distances[at]]
