"""Numbers by key agree with a dictionary of them, in much less memory."""

import random
from collections import Counter

import numpy as np

from services.data.importing.tally import Tally


def test_what_keys_had_before_is_what_a_counter_says() -> None:
    chance, tally, expected = random.Random(0), Tally(), Counter[int]()
    for _ in range(200):
        keys = [chance.choice([chance.getrandbits(64), chance.randrange(40), 2**64 - 1]) for _ in range(50)]
        before = []
        for key in keys:
            before.append(expected[key])
            expected[key] += 1
        assert tally.counted(np.array(keys, np.uint64)).tolist() == before
    there = np.array([*expected, 41], np.uint64)
    assert tally.of(there).tolist() == [*expected.values(), 0]


def test_a_million_keys_take_twelve_bytes_each() -> None:
    tally, random_keys = Tally(), np.random.default_rng(0)
    for _ in range(1000):
        tally.counted(random_keys.integers(0, 2**64, 1000, dtype=np.uint64))
    assert sum(array.nbytes for run in tally._runs for array in run) <= 12 * 1_000_000
    assert len(tally._runs) < 20
