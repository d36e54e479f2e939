"""What was made of media, kept on disk: a picture is decoded and preprocessed once for stages, engines and trainers.

An entry is one safetensors file, `ab/<sha256 of its key>.safetensors`, that holds its own key and a checksum. Files
appear whole, so several processes may share the folder; one that is torn or damaged is made again. A cache that cannot
be written to costs time and nothing else.
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
"""Age of a half-written file at which its writer must be dead."""
ROOM_SHARE = 1 / 16
"""Part of the bound that is freed beyond need, and that a process writes before it looks at the folder again."""
LOSS = "media_loss"
MAX_PROVEN = 100_000
"""Entries whose checksum a process remembers to have checked."""

log = logging.getLogger(__name__)


class Cache(Protocol):
    """Where adapters keep what they made of media."""

    def get(self, key: str, make: Make) -> Arrays:
        """The arrays of a key, made by `make` where they are not kept. What `make` raises is raised and not kept."""


@dataclass(frozen=True)
class CacheCounts:
    """What a cache did since it was opened; `size_bytes` is its files together, when it last looked."""

    hits: int = 0
    misses: int = 0
    read_bytes: int = 0
    written_bytes: int = 0
    size_bytes: int = 0


class NoCache:
    """Keeps nothing."""

    def get(self, key: str, make: Make) -> Arrays:
        """What `make` gives."""
        return make()


NO_CACHE = NoCache()


def feature_key(sha256: str, adapter_revision: str, policy: MediaPolicy) -> str:
    """The key of what an adapter of a revision makes of a medium under a policy, in this version of omnialign."""
    return f"{__version__}/{sha256}/{adapter_revision}/{policy.identity}"


def with_loss(arrays: Arrays, loss: MediaLoss | None) -> Arrays:
    """Arrays to be kept together with what was lost in decoding; the inverse of `split_loss`."""
    if loss is None:
        return arrays
    text = json.dumps([loss.sha256, loss.reason, loss.detail])
    return {**arrays, LOSS: np.frombuffer(text.encode(), dtype=np.uint8)}


def split_loss(arrays: Arrays) -> tuple[Arrays, MediaLoss | None]:
    """The arrays without the loss, and the loss."""
    if LOSS not in arrays:
        return arrays, None
    loss = MediaLoss(*json.loads(arrays[LOSS].tobytes()))
    return {name: array for name, array in arrays.items() if name != LOSS}, loss


class FeatureCache:
    """A folder of entries, of `limit_bytes` together; beyond them those not used for longest are removed.

    Safe for threads, and for processes that share the folder: each looks at all files now and then, so that the bound
    may be passed by a sixteenth for each process that writes.
    """

    def __init__(self, folder: Path, *, limit_bytes: int = 20 * GIB) -> None:
        self._folder, self._limit_bytes = folder, limit_bytes
        self._lock = threading.Lock()
        self._sweeping = threading.Lock()
        self._flights: dict[str, Future[Arrays]] = {}
        self._proven: dict[str, tuple[int, int, int]] = {}
        self._counts = CacheCounts()
        self._watchers: list[Callable[..., None]] = []
        self._is_failing = False
        self._unseen_bytes: int | None = None  # written since the last look at the folder; None before the first

    @property
    def counts(self) -> CacheCounts:
        """Hits, misses and bytes so far."""
        return self._counts

    def watch(self, watcher: Callable[..., None]) -> None:
        """Has every change of the counts told to `watcher`, by the names of `CacheCounts`."""
        self._watchers.append(watcher)

    def get(self, key: str, make: Make) -> Arrays:
        """The arrays of a key; `make` runs once however many threads ask at the same time."""
        with self._lock:
            waiting = self._flights.get(key)
            flight = self._flights.setdefault(key, Future())
        if waiting is not None:
            self._count(hits=1)
            return waiting.result()
        try:
            arrays = self._find(key, make)
            flight.set_result(arrays)
        except BaseException as error:
            flight.set_exception(error)
            raise
        finally:
            with self._lock:
                del self._flights[key]
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
            if not self._is_failing:  # said once, not for each medium
                log.warning("Features cannot be kept in %s: %s.", self._folder, error.strerror)
            self._is_failing = True
        return arrays

    def _path(self, key: str) -> Path:
        name = hashlib.sha256(key.encode()).hexdigest()
        return self._folder / name[:2] / f"{name}{SUFFIX}"

    def _read(self, path: Path, key: str) -> Arrays | None:
        """A whole entry, or None for one that is not there or not what was written."""
        try:
            with path.open("rb") as file:
                found = os.fstat(file.fileno())
                arrays = feature_file.read(file, key=key, is_proven=self._proven.get(key) == _state(found))
                os.utime(file.fileno())  # what was used last leaves last
                self._note_proven(key, os.fstat(file.fileno()))
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("The kept features %s do not read and are made again: %s.", path, error)
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
            self._note_proven(key, path.stat())
        except OSError:
            with suppress(OSError):
                draft.unlink()
            raise
        self._count(written_bytes=size_bytes, size_bytes=size_bytes)
        self._keep_bound(size_bytes)

    def _note_proven(self, key: str, found: os.stat_result) -> None:
        """Remembers a file that is right, for as long as nobody else touches it."""
        if len(self._proven) >= MAX_PROVEN:
            self._proven.clear()
        self._proven[key] = _state(found)

    def _keep_bound(self, written_bytes: int) -> None:
        with self._lock:
            first = self._unseen_bytes is None
            self._unseen_bytes = (self._unseen_bytes or 0) + written_bytes
            full = self._counts.size_bytes > self._limit_bytes
            due = first or full or self._unseen_bytes > self._limit_bytes * ROOM_SHARE
        if due and self._sweeping.acquire(blocking=False):  # one thread of a process is enough
            try:
                self._sweep()
            finally:
                self._sweeping.release()

    def _sweep(self) -> None:
        """Looks at all files and removes the least recently used beyond the bound."""
        found = sorted(_entries(self._folder))
        total = sum(size for _, size, _ in found)
        room = self._limit_bytes if total <= self._limit_bytes else self._limit_bytes * (1 - ROOM_SHARE)
        for _, size, path in found[:-1]:  # the newest stays
            if total <= room:
                break
            with suppress(OSError):
                path.unlink()
            total -= size
        self._unseen_bytes = 0
        self._count(size_bytes=total - self._counts.size_bytes)

    def _count(self, **changes: int) -> None:
        with self._lock:
            self._counts = CacheCounts(**{n: value + changes.get(n, 0) for n, value in vars(self._counts).items()})
        for watcher in self._watchers:
            watcher(**changes)


def _state(found: os.stat_result) -> tuple[int, int, int]:
    """What changes when a file is replaced, written to or touched."""
    return found.st_ino, found.st_size, found.st_ctime_ns


def _entries(folder: Path) -> Iterator[tuple[float, int, Path]]:
    """Time of last use, size and path of each entry; drafts that their writers left behind are removed."""
    for path in folder.glob("*/*"):
        with suppress(OSError):
            found = path.stat()
            if path.suffix == SUFFIX:
                yield found.st_mtime, found.st_size, path
            elif path.suffix == ".draft" and time.time() - found.st_mtime > STALE_SECONDS:
                path.unlink()
