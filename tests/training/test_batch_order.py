"""The order of the rows: every row once, over all ranks, and how long the ranks wait for one another."""

import random
from collections import Counter
from itertools import chain, islice

import pytest
from accelerate import skip_first_batches
from hypothesis import given
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from training.batch_order import BatchOrder, even_groups


def order(lengths: list[int], *, rank: int = 0, epoch: int = 0, **settings: int) -> BatchOrder:
    made = BatchOrder(
        lengths,
        rank=rank,
        **{"batch_size": 64, "num_passes": 1, "num_ranks": 8, "seed": 0, **settings},
    )
    made.set_epoch(epoch)
    return made


@st.composite
def runs(draw: st.DrawFn) -> tuple[list[int], dict[str, int]]:
    """Lengths of rows, and how a run cuts its steps."""
    ranks, passes, micro = draw(st.integers(1, 8)), draw(st.integers(1, 4)), draw(st.integers(1, 4))
    settings = {"num_ranks": ranks, "num_passes": passes, "batch_size": ranks * passes * micro}
    settings |= {"seed": draw(st.integers(0, 2**32 - 1)), "epoch": draw(st.integers(0, 3))}
    return draw(st.lists(st.integers(1, 5000), min_size=1, max_size=150)), settings


@given(runs())
def test_an_epoch_gives_every_row_to_one_rank_once_and_all_ranks_as_many_passes(run):
    lengths, settings = run
    orders = [order(lengths, rank=rank, **settings) for rank in range(settings["num_ranks"])]
    shares = [list(each) for each in orders]
    assert {len(share) for share in shares} == {len(orders[0])}
    assert all(rows for share in shares for rows in share)
    given_out = Counter(row for share in shares for rows in share for row in rows)
    blanks = given_out.pop(orders[0].blank, 0)
    assert given_out == Counter(range(len(lengths)))
    assert blanks < settings["num_ranks"]


@given(runs())
def test_a_step_takes_batch_size_rows_and_only_the_last_one_takes_what_is_left(run):
    lengths, settings = run
    made = order(lengths, **settings)
    sizes = [sum(row != made.blank for row in chain(*chain(*step))) for step in made.steps()]
    whole, left = divmod(len(lengths), settings["batch_size"])
    assert sizes == [settings["batch_size"]] * whole + [left] * bool(left)
    passes = [len(step) for step in made.steps()]
    assert passes[:whole] == [settings["num_passes"]] * whole


@given(runs())
def test_passes_of_one_row_stay_passes_of_one_row(run):
    lengths, settings = run
    settings["batch_size"] = settings["num_ranks"] * settings["num_passes"]
    assert {len(rows) for rows in order(lengths, **settings)} == {1}


@given(runs(), st.integers(0, 50))
def test_a_resumed_epoch_goes_on_with_the_rows_that_are_left(run, skipped: int):
    lengths, settings = run
    whole = list(order(lengths, **settings))
    loader = DataLoader(range(len(lengths) + 1), batch_sampler=order(lengths, **settings), collate_fn=list)
    skipped = min(skipped, len(whole))
    assert list(skip_first_batches(loader, skipped)) == list(islice(whole, skipped, None))


def test_epochs_and_seeds_differ():
    lengths = [(i * 37) % 91 + 1 for i in range(100)]
    found = [
        list(order(lengths, batch_size=8, num_ranks=2, seed=seed, epoch=epoch))
        for seed in range(2)
        for epoch in range(2)
    ]
    assert all(found.count(each) == 1 for each in found)
    assert list(order(lengths, batch_size=8, num_ranks=2)) == found[0]


@given(st.lists(st.integers(1, 1000), min_size=1, max_size=12), st.integers(1, 12))
def test_groups_are_as_even_as_pieces_of_the_sorted_rows_can_be(lengths: list[int], count: int):
    count = min(count, len(lengths))
    groups = even_groups(range(len(lengths)), lengths=lengths, count=count)
    assert sorted(chain(*groups)) == list(range(len(lengths)))
    assert len(groups) == count and all(groups)
    assert max(_padded(rows, lengths) for rows in groups) == _least(sorted(lengths, reverse=True), count)


def _least(lengths: list[int], count: int) -> int:
    """The padded tokens of the largest of `count` pieces, at best; by trying every cut."""
    if count == 1:
        return lengths[0] * len(lengths)
    cuts = range(1, len(lengths) - count + 2)
    return min(max(lengths[0] * cut, _least(lengths[cut:], count - 1)) for cut in cuts)


def _padded(rows: list[int], lengths: list[int]) -> int:
    return len(rows) * max(lengths[row] for row in rows)


def useful_share(lengths: list[int], **settings: int) -> float:
    """The share of the ranks' time that goes into tokens of rows, if time goes by padded tokens.

    The rest is padding, and waiting for the slowest rank of each pass.
    """
    made = order(lengths, **settings)
    ranks = settings.get("num_ranks", 8)
    slowest = sum(max(_padded(rows, lengths) for rows in groups) for step in made.steps() for groups in step)
    return sum(lengths) / (ranks * slowest)


def subtasks(draw: random.Random) -> int:
    """Half of the rows are short texts, a quarter holds a picture, a quarter a sound or a video."""
    return draw.choice([draw.randint(20, 60), draw.randint(20, 60), draw.randint(200, 400), draw.randint(800, 2000)])


def conversations(draw: random.Random) -> int:
    return max(int(draw.lognormvariate(5, 0.6)), 4)


@pytest.mark.parametrize("draw_length", [subtasks, conversations])
@pytest.mark.parametrize("settings", [{"batch_size": 64}, {"batch_size": 128}, {"batch_size": 128, "num_passes": 2}])
def test_eight_ranks_on_long_tailed_lengths_compute_for_four_fifths_of_the_time(draw_length, settings):
    draw = random.Random(0)
    lengths = [draw_length(draw) for _ in range(4096)]
    assert useful_share(lengths, **settings) >= 0.8


def test_no_rank_works_more_than_the_others():
    draw = random.Random(0)
    lengths = [conversations(draw) for _ in range(4096)]
    orders = [order(lengths, rank=rank, batch_size=128, num_passes=2) for rank in range(8)]
    tokens = [sum(_padded(rows, lengths) for rows in each) for each in orders]
    assert max(tokens) < 1.2 * min(tokens)


def test_one_rank_carries_less_padding_than_with_a_plain_shuffle():
    lengths = [(i * 37) % 91 + 1 for i in range(96)]
    shuffled = random.Random(0).sample(range(96), 96)
    plain = sum(_padded(shuffled[at : at + 8], lengths) for at in range(0, 96, 8)) - sum(lengths)
    for seed in range(5):
        made = order(lengths, batch_size=8, num_ranks=1, seed=seed)
        assert sum(_padded(rows, lengths) for rows in made) - sum(lengths) < 0.8 * plain
