"""Bloom filters of hashes: some bits for each tell of nearly all others that they are not among them."""

from typing import Any

import numpy as np

BITS, PROBES = 20, 8
"""Of a filter for each hash, and of each hash that are set: one in 7,000 others seems to be there."""


class BloomFilter:
    """Tells of most hashes that they were not added, and never so of one that was."""

    def __init__(self, count: int) -> None:
        """For about `count` hashes; with more, it tells less."""
        self._bits = np.zeros(num_bytes(count), np.uint8)

    @property
    def num_bytes(self) -> int:
        """Bytes that it takes."""
        return int(self._bits.nbytes)

    def add(self, hashes: Any) -> None:
        """Adds hashes: uniform numbers from 0 to 2^63 - 1."""
        places, bits = self._probes(hashes)
        np.bitwise_or.at(self._bits, places, bits)

    def may_have(self, hashes: Any) -> Any:
        """Of each hash, whether it may have been added."""
        places, bits = self._probes(hashes)
        return (self._bits[places] & bits).all(axis=0)

    def _probes(self, hashes: Any) -> tuple[Any, Any]:
        """Of each hash, the bytes to look at and the bit in each: (probes, hashes). Its halves are hashed doubly."""
        numbers = np.asarray(hashes).astype(np.uint64)
        first, stride = numbers & np.uint64(0xFFFFFFFF), numbers >> np.uint64(32) | np.uint64(1)
        bits = (first + np.arange(PROBES, dtype=np.uint64)[:, None] * stride) % np.uint64(8 * len(self._bits))
        return bits >> np.uint64(3), np.uint8(1) << (bits & np.uint64(7)).astype(np.uint8)


def num_bytes(count: int) -> int:
    """The size of a filter for so many hashes."""
    return max(count, 1) * BITS // 8 + 1
