"""Values in memory that were used last, up to a number of bytes."""

import threading
from collections import OrderedDict
from collections.abc import Callable
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class RecentValues(Generic[K, V]):
    """Keeps values by their keys, and drops those that were used longest ago. Safe for concurrent threads."""

    def __init__(self, max_bytes: int, *, size: Callable[[V], int]) -> None:
        """`size` is about how many bytes a value takes, always the same for a value."""
        self._max_bytes, self._size = max_bytes, size
        self._kept: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()
        self.num_bytes = 0
        """About what all values take."""

    def get(self, key: K) -> V | None:
        """The value of a key; None if it is not kept."""
        with self._lock:
            if key in self._kept:
                self._kept.move_to_end(key)
            return self._kept.get(key)

    def find(self, is_wanted: Callable[[K, V], bool]) -> V | None:
        """A value of which this holds; None if there is none."""
        with self._lock:
            for key, value in self._kept.items():
                if is_wanted(key, value):
                    self._kept.move_to_end(key)
                    return value
            return None

    def put(self, key: K, value: V) -> None:
        """Keeps a value, unless its key has one, or it is too large."""
        with self._lock:
            if key in self._kept or self._size(value) > self._max_bytes:
                return
            self._kept[key] = value
            self.num_bytes += self._size(value)
            while self.num_bytes > self._max_bytes:
                self.num_bytes -= self._size(self._kept.popitem(last=False)[1])

    def drop(self, is_gone: Callable[[K], bool]) -> None:
        """Drops the values of all keys of which this holds."""
        with self._lock:
            for key in [key for key in self._kept if is_gone(key)]:
                self.num_bytes -= self._size(self._kept.pop(key))
