"""Bloom filters: whatever was added may be there, and nearly nothing else."""

import numpy as np

from services.data.bloom_filter import BloomFilter, num_bytes


def test_what_was_added_is_never_missed_and_others_hardly_ever_taken_for_it() -> None:
    hashes = np.random.default_rng(0).integers(0, 2**63 - 1, 60_000)
    made = BloomFilter(20_000)
    for start in range(0, 20_000, 5_000):
        made.add(hashes[start : start + 5_000])
    assert made.may_have(hashes[:20_000]).all()
    assert made.may_have(hashes[20_000:]).sum() < 40
    assert made.num_bytes == num_bytes(20_000) <= 3 * 20_000


def test_an_empty_filter_has_nothing() -> None:
    made = BloomFilter(0)
    made.add(np.array([], np.int64))
    assert not made.may_have(np.array([0, 1, 2**63 - 1])).any()
    assert made.may_have(np.array([], np.int64)).tolist() == []
