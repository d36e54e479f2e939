"""Locks by name, such as one for each dataset, of which there are as many as are in use."""

import asyncio
from weakref import WeakValueDictionary


class NamedLocks:
    """A lock for each name. It lasts while somebody holds it or waits for it; nobody need remove it."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    def __getitem__(self, name: str) -> asyncio.Lock:
        return self._locks.setdefault(name, asyncio.Lock())

    def __len__(self) -> int:
        return len(self._locks)
