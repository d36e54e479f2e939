"""The journal of a dataset: which rows of which files its imports have written, in `imports/{uid}/`.

After each write an object is added that tells the rows of each file in it. By them an import that was killed goes on at
the row where it was, and files that are there already are not read again. A row counts as written only if the table
holds its record unchanged, and no media file that rows named has changed: the journal is a hint, never the truth.

    "OMNIIMP1", size of the head (u64), the head (JSON: the parts and their sizes), then of all parts the rows, the
    records, and the records set aside, as arrays
"""

import json
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Iterator, Mapping, Set
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from omnialign.errors import NotFound
from services.data.datasets import JOURNALS
from services.data.importing.media_files import Visit
from services.data.objects import ObjectStore
from services.data.store import now_us

MAGIC = b"OMNIIMP1"
MAX_BYTES = 1 << 30
SMALL_BYTES, MAX_SMALL = 256 * 1024, 64
"""An object of less than so many bytes is small, and more than so many of them become one."""
STALE_US = 24 * 3600 * 1_000_000
"""Age from which an object that cannot be read is no longer being written."""
ROW = np.dtype([("content", "<u8"), ("key", "<u8"), ("again", "<u4"), ("left_out", "?")])
"""What an import keeps of a row: digests of its content and of its name, how often it came before, whether it was left
out."""
STATE = np.dtype([("hash", "<i8"), ("fingerprint", "<i8")])
"""What tells a stored record: the hash of its id, and that of its bytes."""
KINDS = {"rows": ROW, "good": STATE, "bad": STATE}

Array = NDArray[Any]


@dataclass
class Part:
    """Consecutive rows of a file that were written together."""

    file: str
    """The digest of the file's bytes, and of all that says how they are read."""
    name: str
    """What the versions of a file have in common."""
    start: int
    end: int
    survey: Mapping[str, Any]
    is_last: bool = False
    """Whether the file ends with it."""
    media_bytes: int = 0
    subtasks: dict[str, int] = field(default_factory=dict)
    """How many records were written, by subtask."""
    replaced: int = 0
    """How many of them took the place of a record with their id and other contents."""
    reasons: dict[str, int] = field(default_factory=dict)
    """How many rows were set aside, by reason."""
    examples: dict[str, str] = field(default_factory=dict)
    """For each reason, the message of a row."""
    aside: list[str] = field(default_factory=list)
    """The ids of the rows that were set aside."""
    mended: list[str] = field(default_factory=list)
    """The ids of earlier rows that these replace."""
    visits: list[Visit] = field(default_factory=list)
    """The media files that the rows named."""


@dataclass(frozen=True)
class _Place:
    """Where the arrays of a part are."""

    part: Part
    key: str
    starts: Mapping[str, int]
    counts: Mapping[str, int]


class Journal:
    """The journal of one dataset. Blocking."""

    def __init__(self, objects: ObjectStore, uid: str) -> None:
        """Reads what parts there are. A `uid` of "" has none, and keeps none."""
        self._objects, self.uid = objects, uid
        self._lock = threading.Lock()
        self._places: dict[str, dict[int, _Place]] = {}
        self._names: dict[str, set[str]] = {}
        self._sizes: dict[str, int] = {}
        self._used = set[str]()
        self._read: tuple[str, bytes] = "", b""
        found = list(objects.list(f"{JOURNALS}{uid}/")) if uid else []
        for info in sorted(found, key=lambda info: info.key):
            try:
                self._index(info.key, objects.read(info.key, length=MAX_BYTES))
            except NotFound:  # another import has just pruned it
                pass
            except (ValueError, KeyError, TypeError, struct.error):  # of another release, damaged, or half written
                if info.modified_us < now_us() - STALE_US:
                    self._names[info.key] = set()

    @property
    def is_empty(self) -> bool:
        """Whether nothing was written yet."""
        return not self._places

    def survey(self, file: str) -> Mapping[str, Any] | None:
        """What the look through a file found; None if nothing of it was written."""
        places = self._places.get(file)
        return next(iter(places.values())).part.survey if places else None

    def written(
        self, file: str, head: Array, aside: Array, has_changed: Callable[[Visit], bool]
    ) -> Iterator[tuple[Part, Array, Array]]:
        """The parts of a file from its start on, as far as all of their records are in the tables.

        Each with its rows, and with the hashes of the ids of its records.
        """
        at, places = 0, self._places.get(file, {})
        while (place := places.get(at)) is not None:
            try:
                arrays = self._arrays(place)
            except NotFound:  # another import has just pruned it
                return
            is_there = _holds(head, arrays["good"]) and _holds(aside, arrays["bad"])
            if not is_there or any(map(has_changed, place.part.visits)):
                return
            self._used.add(place.key)
            yield place.part, arrays["rows"], arrays["good"]["hash"]
            if place.part.is_last or place.part.end == at:
                return
            at = place.part.end

    def write(self, parts: Iterable[tuple[Part, Mapping[str, Array]]]) -> None:
        """Adds what was written together: each part with its arrays by kind."""
        parts = list(parts)
        entries = [(asdict(part), {kind: len(arrays[kind]) for kind in KINDS}) for part, arrays in parts]
        head = json.dumps(entries).encode()
        arrays = [found[kind].astype(KINDS[kind]).tobytes() for kind in KINDS for _, found in parts]
        key = f"{JOURNALS}{self.uid}/{time.time_ns():020d}-{uuid.uuid4().hex[:8]}"
        self._objects.put_bytes(key, b"".join([MAGIC, struct.pack("<Q", len(head)), head, *arrays]))
        with self._lock:
            self._used.add(key)

    def prune(self, files: Set[str]) -> None:
        """Removes what tells only of files that were imported now, by their names, and in another way."""
        for key, told in self._names.items():
            if key not in self._used and told <= files:
                self._objects.delete(key)
                self._sizes.pop(key, None)
        self._compact()

    def _compact(self) -> None:
        """Makes one object of many small ones: each import reads them all."""
        small = [key for key, size in self._sizes.items() if size < SMALL_BYTES]
        if len(small) <= MAX_SMALL:
            return
        places = [place for by_start in self._places.values() for place in by_start.values() if place.key in small]
        try:
            kept = [(place.part, self._arrays(place)) for place in sorted(places, key=lambda place: place.key)]
        except NotFound:  # another import does the same
            return
        self.write(kept)  # first: what is there twice does no harm
        for key in small:
            self._objects.delete(key)

    def _index(self, key: str, blob: bytes) -> None:
        if blob[: len(MAGIC)] != MAGIC:
            raise ValueError("it is of another format")
        (size,) = struct.unpack_from("<Q", blob, len(MAGIC))
        at = len(MAGIC) + 8
        entries = [(Part(**part), counts) for part, counts in json.loads(blob[at : at + size])]
        starts, at = [dict[str, int]() for _ in entries], at + size
        for kind, dtype in KINDS.items():
            for (_, counts), found in zip(entries, starts, strict=True):
                found[kind], at = at, at + counts[kind] * dtype.itemsize
        if at != len(blob):
            raise ValueError("it is cut off")
        self._names[key], self._sizes[key] = {part.name for part, _ in entries}, len(blob)
        for (part, counts), found in zip(entries, starts, strict=True):
            part.visits = [tuple(visit) for visit in part.visits]  # type: ignore[misc] # JSON has lists
            self._places.setdefault(part.file, {})[part.start] = _Place(part, key, found, counts)

    def _arrays(self, place: _Place) -> dict[str, Array]:
        """The arrays of a part, by kind. Raises NotFound."""
        if self._read[0] != place.key:
            self._read = place.key, self._objects.read(place.key, length=MAX_BYTES)
        blob = self._read[1]
        return {kind: np.frombuffer(blob, KINDS[kind], place.counts[kind], place.starts[kind]) for kind in KINDS}


def sorted_states(states: pa.Table | None) -> Array:
    """The records of a table, for `Journal.written`."""
    if states is None:
        return np.empty(0, STATE)
    hashes, fingerprints = states["hash"].to_numpy(), states["fingerprint"].to_numpy()
    order = np.argsort(hashes, kind="stable")
    found = np.empty(len(hashes), STATE)
    found["hash"], found["fingerprint"] = hashes[order], fingerprints[order]
    return found


def _holds(table: Array, wanted: Array) -> bool:
    """Whether a table holds all of the records, unchanged."""
    if not len(wanted):
        return True
    at = np.searchsorted(table["hash"], wanted["hash"])
    return bool(at.max() < len(table) and (table[at] == wanted).all())
