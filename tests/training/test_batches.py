"""The order of the examples, and how much padding it leaves."""

import random

from training.batches import LengthSampler


def test_an_epoch_holds_every_example_once_in_an_order_of_its_own():
    lengths = [(i * 37) % 91 for i in range(100)]
    sampler, again = (LengthSampler(lengths, batch_size=8, seed=1) for _ in range(2))
    first = list(sampler)
    assert sorted(first) == list(range(100))
    assert list(again) == first
    sampler.set_epoch(1)
    assert list(sampler) != first


def test_batches_carry_less_padding_than_a_plain_shuffle():
    lengths = [(i * 37) % 91 for i in range(96)]
    shuffled = random.Random(0).sample(range(96), 96)

    def padding(order: list[int]) -> int:
        batches = ([lengths[i] for i in order[at : at + 8]] for at in range(0, 96, 8))
        return sum(max(batch) * len(batch) - sum(batch) for batch in batches)

    for seed in range(5):
        assert padding(list(LengthSampler(lengths, batch_size=8, seed=seed))) < 0.8 * padding(shuffled)
