"""Tokens are drawn from the softmax, by each record's own stream."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from services.inference.transformers.sampling import Sampler, gumbel, nucleus, philox

CPU = torch.device("cpu")
PROBABILITIES = (0.4, 0.3, 0.15, 0.1, 0.05)


def draw(probabilities, *, rows, temperature=1.0, top_p=0.0, seed=0, step=0):
    logits = torch.tensor(probabilities).log().repeat(rows, 1)
    draws = Sampler.of([(seed + row, temperature, top_p) for row in range(rows)], device=CPU)
    tokens = draws.sample(logits, torch.full((rows,), step))
    return np.bincount(tokens.numpy(), minlength=len(probabilities))


def chi_square(counts, probabilities):
    expected = np.array(probabilities) / sum(probabilities) * counts.sum()
    return float(((counts - expected) ** 2 / expected).sum())


def test_philox_gives_the_published_numbers():
    """Known answers of Philox4x32-10 with counter and key 0, from the authors' test vectors."""
    words = philox(torch.tensor([0]), torch.tensor([0]), 1)[0].tolist()
    assert [f"{word:08x}" for word in words] == ["6627e8d5", "e169c58d", "bc57ac4c", "9b00dbd8"]


@pytest.mark.parametrize("step", [0, 1, 977])
def test_draws_follow_the_softmax(step):
    """18.47 is the 0.999 quantile of chi-square with 4 degrees of freedom."""
    assert chi_square(draw(PROBABILITIES, rows=20_000, step=step), PROBABILITIES) < 18.47


def test_a_temperature_sharpens_the_softmax():
    sharpened = np.array(PROBABILITIES) ** 2
    assert chi_square(draw(PROBABILITIES, rows=20_000, temperature=0.5), sharpened) < 18.47


def test_top_p_keeps_the_smallest_set_that_holds_the_mass():
    counts = draw(PROBABILITIES, rows=20_000, top_p=0.7)
    assert counts[2:].sum() == 0 or counts[3:].sum() == 0
    kept = PROBABILITIES[: int((counts > 0).sum())]
    assert chi_square(counts[: len(kept)], kept) < 18.47


def test_a_tiny_top_p_is_greedy():
    assert draw(PROBABILITIES, rows=100, top_p=1e-9).tolist() == [100, 0, 0, 0, 0]


def test_the_nucleus_does_not_depend_on_the_order_of_tokens():
    logits = torch.tensor([[0.1, 0.6, 0.3], [0.3, 0.1, 0.6]]).log()
    kept = nucleus(logits, torch.tensor([0.7, 0.7])) > float("-inf")
    assert kept.tolist() == [[False, True, True], [True, False, True]]


def test_temperature_0_is_greedy_whatever_the_seed():
    assert draw(PROBABILITIES, rows=100, temperature=0.0).tolist() == [100, 0, 0, 0, 0]


@given(st.lists(st.integers(0, 2**64 - 1), min_size=1, max_size=6, unique=True), st.integers(0, 1000))
@settings(max_examples=30)
def test_the_noise_of_a_row_does_not_depend_on_its_neighbours(seeds, step):
    signed = [seed - 2**64 if seed >= 2**63 else seed for seed in seeds]
    together = gumbel(torch.tensor(signed), torch.full((len(seeds),), step), 11)
    for row, seed in enumerate(signed):
        alone = gumbel(torch.tensor([seed]), torch.tensor([step]), 11)
        assert torch.equal(alone[0], together[row])


def test_noise_differs_between_seeds_steps_and_tokens_and_is_finite():
    noise = torch.stack([gumbel(torch.arange(50), torch.full((50,), step), 64) for step in range(20)])
    assert noise.isfinite().all()
    assert noise.unique().numel() > 0.99 * noise.numel()
    assert abs(float(noise.mean()) - 0.5772) < 0.02  # the Euler constant
    assert abs(float(noise.var()) - 1.6449) < 0.05  # pi^2 / 6
