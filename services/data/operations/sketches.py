"""Texts as sets of hashed word triples, by which nearly equal ones are found (A. Broder, "On the Resemblance and
Containment of Documents", 1997).

Of a long text only the lowest hashes are kept, from which the similarity of two texts is estimated; of others it is
exact. Which texts are compared is decided by MinHash: the least values of the triples under several permutations.
"""

import re
from collections.abc import Iterator, Sequence

import numpy as np
import xxhash
from numpy.typing import NDArray

TOKEN = re.compile(
    r"[\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]|[^\W_\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff]+|[^\w\s]|_"
)
"""A word, a character of a script without blanks, or a sign."""
NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
WORDS = 3
KEPT = 512
"""Hashes that are kept of a text."""
BANDS, MOST_ROWS = 10, 4
STRICT, LOOSE = 0.8, 0.65
"""Thresholds from which on four, and two, permutations must agree for two texts to be compared; else one."""

Sketch = NDArray[np.uint32]
_random = np.random.default_rng(0)
_FACTORS = _random.integers(0, 1 << 63, BANDS * MOST_ROWS, dtype=np.uint64) * np.uint64(2) + np.uint64(1)
_OFFSETS = _random.integers(0, 1 << 63, BANDS * MOST_ROWS, dtype=np.uint64)


def sketch(text: str) -> Sketch:
    """The lowest hashes of a normalised text, ascending; empty for an empty text."""
    tokens = TOKEN.findall(text)
    triples = {" ".join(tokens[start : start + WORDS]) for start in range(max(1, len(tokens) - WORDS + 1))}
    hashes = np.array([xxhash.xxh32_intdigest(one.encode("utf-8", "surrogatepass")) for one in triples], np.uint32)
    return np.unique(hashes)[:KEPT] if tokens else np.zeros(0, np.uint32)


def numbers(text: str) -> list[str]:
    """The numbers in a text: where they differ, two texts are not the same however alike."""
    return NUMBER.findall(text)


def similarity(one: Sketch, other: Sketch) -> float:
    """The share of triples that two texts have in common of all that they have; 1 for two empty ones."""
    union = np.union1d(one, other)
    if not len(union):
        return 1.0
    if max(len(one), len(other)) == KEPT:  # beyond the lowest, not all hashes of both are known
        union = union[:KEPT]
    return float(np.isin(union, np.intersect1d(one, other)).mean())


def keys(texts: Sequence[Sketch], threshold: float) -> Iterator[bytes]:
    """Nearly equal lists of texts have at least one of these in common; each text has a part in each."""
    least = [_least(one) for one in texts if len(one)]
    wanted = MOST_ROWS if threshold >= STRICT else 2 if threshold >= LOOSE else 1
    rows = max(1, wanted // max(1, len(least)))
    for band in range(BANDS):
        start = band * MOST_ROWS
        yield bytes([band]) + b"".join(one[start : start + rows].tobytes() for one in least)


def _least(one: Sketch) -> NDArray[np.uint64]:
    """The least value under each permutation."""
    with np.errstate(over="ignore"):
        values = one.astype(np.uint64)[:, None] * _FACTORS + _OFFSETS  # (hashes, permutations)
    least: NDArray[np.uint64] = (values >> np.uint64(16)).min(axis=0)
    return least
