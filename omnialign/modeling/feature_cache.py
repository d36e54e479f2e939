"""What was made of media, cached on disk: each is decoded and preprocessed once for stages, engines and trainers.

An entry is a safetensors file, `ab/<sha256 of its key>.safetensors`, with its own key and a checksum inside. Files are
written to a draft and renamed, so they appear whole and several processes may share the folder. A torn or damaged file
is made again. A cache that cannot be written to costs time, nothing else.
"""

import hashlib
import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from omnialign import __version__
from omnialign.modeling import feature_file
from omnialign.modeling.feature_file import Arrays
from omnialign.modeling.inputs import MediaLoss, MediaPolicy

Make = Callable[[], Arrays]

GIB = 1 << 30
SUFFIX = ".safetensors"
STALE_SECONDS = 3600.0
"""Age at which a draft is taken to be left over from a dead writer."""
ROOM_SHARE = 1 / 16
"""Share of the limit that a sweep frees beyond need, and that a process writes before it sweeps again."""
LOSS = "media_loss"
MAX_VERIFIED = 100_000
"""Number of files that a process remembers as verified."""

log = logging.getLogger(__name__)


class Cache(Protocol):
    """Where adapters keep what they make of media."""

    def get(self, key: str, make: Make) -> Arrays:
        """The arrays under `key`; calls `make` if there are none. Errors of `make` are raised and not cached."""


@dataclass(frozen=True)
class CacheCounts:
    """What a cache did since it was opened; `size_bytes` is the size of all its files at the last sweep."""

    hits: int = 0
    misses: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    size_bytes: int = 0


class NoCache:
    """A cache that stores nothing."""

    def get(self, key: str, make: Make) -> Arrays:
        """Calls `make`."""
        return make()


NO_CACHE = NoCache()


def feature_key(sha256: str, adapter_revision: str, policy: MediaPolicy) -> str:
    """The key of what one revision of an adapter makes of a medium under a policy, in this version of omnialign."""
    return f"{__version__}/{sha256}/{adapter_revision}/{policy.identity}"


def with_loss(arrays: Arrays, loss: MediaLoss | None) -> Arrays:
    """The arrays plus what was lost in decoding, as one more array; the inverse of `split_loss`."""
    if loss is None:
        return arrays
    text = json.dumps([loss.sha256, loss.reason, loss.detail])
    return {**arrays, LOSS: np.frombuffer(text.encode(), dtype=np.uint8)}


def split_loss(arrays: Arrays) -> tuple[Arrays, MediaLoss | None]:
    """Separates the arrays from the loss that `with_loss` added."""
    if LOSS not in arrays:
        return arrays, None
    loss = MediaLoss(*json.loads(arrays[LOSS].tobytes()))
    return {name: array for name, array in arrays.items() if name != LOSS}, loss


class FeatureCache:
    """A folder of entries of at most `limit_bytes` in all; the least recently used are removed first.

    Safe for threads, and for processes that share the folder. Each process sweeps the folder only now and then, so the
    limit may be exceeded by a sixteenth for each process that writes.
    """

    def __init__(self, folder: Path, *, limit_bytes: int = 20 * GIB) -> None:
        self._folder, self._limit_bytes = folder, limit_bytes
        self._lock = threading.Lock()
        self._sweeping = threading.Lock()
        self._in_flight: dict[str, Future[Arrays]] = {}
        self._verified: dict[str, tuple[int, int, int]] = {}
        self._counts = CacheCounts()
        self._observers: list[Callable[..., None]] = []
        self._is_failing = False
        self._unswept_bytes: int | None = None  # written since the last sweep; None before the first

    @property
    def counts(self) -> CacheCounts:
        """Hits, misses and bytes so far."""
        return self._counts

    def watch(self, observer: Callable[..., None]) -> None:
        """Calls `observer` with every change of the counts, as keywords named like the fields of `CacheCounts`."""
        self._observers.append(observer)

    def get(self, key: str, make: Make) -> Arrays:
        """The arrays under `key`; `make` runs once, however many threads ask for the key at the same time."""
        with self._lock:
            others = self._in_flight.get(key)
            mine = self._in_flight.setdefault(key, Future())
        if others is not None:  # another thread is making it: wait for its result, or raise its error
            self._count(hits=1)
            return others.result()
        try:
            arrays = self._find(key, make)
            mine.set_result(arrays)
        except BaseException as error:
            mine.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._in_flight[key]
        return arrays

    def _find(self, key: str, make: Make) -> Arrays:
        path = self._path(key)
        if (kept := self._read(path, key)) is not None:
            return kept
        self._count(misses=1)
        arrays = make()
        try:
            self._write(path, key, arrays)
            self._is_failing = False
        except OSError as error:
            if not self._is_failing:  # warn once, not for every medium
                log.warning("Cannot write to the feature cache %s: %s.", self._folder, error.strerror)
            self._is_failing = True
        return arrays

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self._folder / name[:2] / f"{name}{SUFFIX}"

    def _read(self, path: Path, key: str) -> Arrays | None:
        """An entry, or None if there is none or it is damaged."""
        try:
            with path.open("rb") as file:
                found = os.fstat(file.fileno())
                arrays = feature_file.read(file, key=key, is_verified=self._verified.get(key) == _state(found))
                os.utime(file.fileno())  # the modification time is the time of last use
                self._mark_verified(key, os.fstat(file.fileno()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("The cached features %s cannot be read and are made again: %s.", path, error)
            return None
        self._count(hits=1, read_bytes=found.st_size)
        return arrays

    def _write(self, path: Path, key: str, arrays: Arrays) -> None:
        if sum(array.nbytes for array in arrays.values()) >= self._limit_bytes:
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        draft = path.with_name(f".{path.stem}.{os.getpid()}.{threading.get_ident()}.draft")
        try:
            size_bytes = feature_file.write(draft, key=key, arrays=arrays)
            draft.replace(path)
            self._mark_verified(key, path.stat())
        except OSError:
            with suppress(OSError):
                draft.unlink()
            raise
        self._count(written_bytes=size_bytes, size_bytes=size_bytes)
        self._enforce_limit(size_bytes)

    def _mark_verified(self, key: str, found: os.stat_result) -> None:
        """Remembers that a file is intact, for as long as nobody else touches it."""
        if len(self._verified) >= MAX_VERIFIED:
            self._verified.clear()
        self._verified[key] = _state(found)

    def _enforce_limit(self, written_bytes: int) -> None:
        """Sweeps at the first write, when the limit is exceeded, and after each sixteenth of the limit written."""
        with self._lock:
            first = self._unswept_bytes is None
            self._unswept_bytes = (self._unswept_bytes or 0) + written_bytes
            full = self._counts.size_bytes > self._limit_bytes
            due = first or full or self._unswept_bytes > self._limit_bytes * ROOM_SHARE
        if due and self._sweeping.acquire(blocking=False):  # one sweeping thread is enough
            try:
                self._sweep()
            finally:
                self._sweeping.release()

    def _sweep(self) -> None:
        """Measures the folder and removes the least recently used files beyond the limit."""
        found = sorted(_entries(self._folder))
        total = sum(size for _, size, _ in found)
        room = self._limit_bytes if total <= self._limit_bytes else self._limit_bytes * (1 - ROOM_SHARE)
        for _, size, path in found[:-1]:  # the newest always stays
            if total <= room:
                break
            with suppress(OSError):
                path.unlink()
            total -= size
        self._unswept_bytes = 0
        self._count(size_bytes=total - self._counts.size_bytes)

    def _count(self, **changes: int) -> None:
        with self._lock:
            self._counts = CacheCounts(**{n: value + changes.get(n, 0) for n, value in vars(self._counts).items()})
        for observer in self._observers:
            observer(**changes)


def _state(found: os.stat_result) -> tuple[int, int, int]:
    """Values that change when a file is replaced, written to or touched."""
    return found.st_ino, found.st_size, found.st_ctime_ns


def _entries(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Time of last use, size and path of each entry. Removes drafts whose writers are dead."""
    for path in folder.glob("*/*"):
        with suppress(OSError):
            found = path.stat()
            if path.suffix == SUFFIX:
                yield found.st_mtime, found.st_size, path
            elif path.suffix == ".draft" and time.time() - found.st_mtime > STALE_SECONDS:
                path.unlink()
