"""Where the rows of a table are, by the hash of their ids, at a cost that does not grow with the table.

Most rows are in Lance's own index, on the disk. The fragments that were written since it was last brought up to date
(see `upkeep`) hold few. Their hashes are kept in memory, and since the rows of a fragment never change, they are read
once. Both also name rows that are deleted by now, which `take` leaves out, and rows of other ids with the same hash.

A look into the index reads each page that may have one of the hashes. Those of new rows are in none, but between others
everywhere: a merge of some hundreds would read most of an index, however large, and find nothing. So the segments of
an index have filters in memory, as far as there is room, which tell of most hashes that they are not there.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from services.data.bloom_filter import BloomFilter, num_bytes
from services.runtime.recent import RecentValues

INDEX = "hash"
"""The indexed column, and the name of its index."""
ADDRESS = "_rowaddr"
"""Lance's column with the address of a row: the number of its fragment, and its place in it."""
KEPT_BYTES = 4 * 1024 * 1024
FILTER_BYTES = 32 * 1024 * 1024
LARGEST_FILTER = FILTER_BYTES // 4
"""A segment that would need a larger one has no filter."""

Fragment = tuple[str, int]
"""A fragment by the file of its table's first one, and by its number, which a table that begins anew may have again."""
Segment = tuple[str, str]
"""A segment of an index by the file of its table's first fragment, and by its uuid."""


class SortedHashes:
    """The hashes of one fragment's rows."""

    def __init__(self, hashes: Any) -> None:
        """`hashes` are in the order of the rows."""
        self._places = np.argsort(hashes).astype(np.uint32)
        self._hashes = hashes[self._places]
        self.num_bytes = int(self._places.nbytes + self._hashes.nbytes)

    def places(self, wanted: Any) -> list[int]:
        """The places of the rows that have one of the hashes."""
        first = np.searchsorted(self._hashes, wanted)
        hits = np.flatnonzero(self._hashes.take(first, mode="clip") == wanted) if len(self._hashes) else ()
        if not len(hits):  # so of most fragments: this is done for each of them in each merge
            return []
        end = np.searchsorted(self._hashes, wanted[hits], "right")
        return [int(place) for hit, last in zip(hits, end, strict=True) for place in self._places[first[hit] : last]]


class Hashes(RecentValues[Fragment, SortedHashes]):
    """The hashes of the fragments that were looked at last."""

    def __init__(self, max_bytes: int = KEPT_BYTES) -> None:
        super().__init__(max_bytes, size=lambda hashes: hashes.num_bytes)

    def put_last(self, dataset: Any, hashes: Any) -> None:
        """Keeps the hashes of the rows of a table's last fragment."""
        fragments = dataset.get_fragments()
        self.put((_file(fragments[0]), fragments[-1].fragment_id), SortedHashes(hashes))


class Filters(RecentValues[Segment, BloomFilter]):
    """The filters of the segments of indexes; a segment never changes."""

    def __init__(self, max_bytes: int = FILTER_BYTES) -> None:
        super().__init__(max_bytes, size=lambda made: made.num_bytes)


def find(dataset: Any, hashes: Sequence[int], kept: Hashes, filters: Filters | None = None) -> list[int]:
    """The addresses of the rows whose ids may have one of these hashes, in the order of the table.

    Whoever looks for rows that are mostly new gives `filters`.
    """
    wanted = np.unique(np.array(hashes, np.int64))
    segments = segments_of(dataset)
    indexed = covered(segments)
    fragments = dataset.get_fragments()
    others = [fragment for fragment in fragments if fragment.fragment_id not in indexed]
    first = _file(fragments[0]) if fragments else ""
    found = []
    if indexed:
        known_filters = [filters.get((first, segment.uuid)) for segment in segments] if filters else [None]
        found = _indexed(dataset, _unfiltered(known_filters, wanted))
    if others:
        known = {fragment.fragment_id: kept.get((first, fragment.fragment_id)) for fragment in others}
        for number, rows in _read(dataset, [one for one in others if known[one.fragment_id] is None]):
            kept.put((first, number), rows)
            known[number] = rows
        found += [number << 32 | place for number, rows in known.items() if rows for place in rows.places(wanted)]
    return sorted(found)


def take(dataset: Any, addresses: Sequence[int], columns: Sequence[str]) -> pa.Table:
    """The columns of those of the rows that are not deleted."""
    return dataset._take_rows(list(addresses), columns=list(columns))


def make_filter(dataset: Any, filters: Filters) -> bool:
    """Makes a filter for a segment that has none and can have one; whether there was such a segment."""
    fragments, segments = dataset.get_fragments(), segments_of(dataset)
    first = _file(fragments[0]) if fragments else ""
    by_number = {fragment.fragment_id: fragment for fragment in fragments}
    present = {(first, segment.uuid) for segment in segments}
    for segment in segments:
        indexed = [by_number.get(number) for number in segment.fragment_ids]
        # What is gone by now cannot be read, but an earlier state may still have it.
        if filters.get((first, segment.uuid)) is not None or None in indexed:
            continue
        count = sum(fragment.physical_rows for fragment in indexed if fragment)
        if num_bytes(count) > LARGEST_FILTER:
            continue
        made = BloomFilter(count)
        for batch in _scanner(dataset, indexed).to_batches():
            made.add(batch[INDEX].to_numpy())
        filters.drop(lambda key: key[0] == first and key not in present)  # what was merged into it
        filters.put((first, segment.uuid), made)
        return True
    return False


def segments_of(dataset: Any) -> list[Any]:
    """The parts of a table's index, oldest first; each says which fragments it covers, some of which may be gone."""
    return [segment for index in dataset.describe_indices() for segment in index.segments]


def covered(segments: Sequence[Any]) -> set[int]:
    """The numbers of the fragments that these parts of an index cover."""
    return {number for segment in segments for number in segment.fragment_ids}


def _unfiltered(known: Sequence[BloomFilter | None], wanted: Any) -> Any:
    """Those of the hashes that one of the segments with these filters may have."""
    if None in known:
        return wanted
    return wanted[np.any([one.may_have(wanted) for one in known if one], axis=0)]


def _indexed(dataset: Any, wanted: Any) -> list[int]:
    if not len(wanted):
        return []
    condition = pc.field(INDEX).isin(pa.array(wanted))
    scanner = dataset.scanner(columns=[], filter=condition, with_row_address=True, fast_search=True)
    found: list[int] = scanner.to_table()[ADDRESS].to_pylist()
    return found


def _read(dataset: Any, fragments: Sequence[Any]) -> Iterator[tuple[int, SortedHashes]]:
    """The hashes of fragments, with those of deleted rows, which an earlier state may still have."""
    if fragments:
        rows, start = _scanner(dataset, fragments).to_table()[INDEX].to_numpy(), 0
        for fragment in fragments:
            yield fragment.fragment_id, SortedHashes(rows[start : (start := start + fragment.physical_rows)])


def _scanner(dataset: Any, fragments: Sequence[Any]) -> Any:
    return dataset.scanner(columns=[INDEX], fragments=fragments, include_deleted_rows=True, with_row_id=True)


def _file(fragment: Any) -> str:
    return str(fragment.data_files()[0].path)
