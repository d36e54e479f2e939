"""GRPO and what later work changed in it, against the formulas written out token by token."""

import math
from statistics import fmean, pstdev

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from training.methods.grpo import GrpoSettings
from training.methods.rollout import RolloutSettings
from training.trainers.grpo import advantages, token_losses, token_shares

LENGTHS = (3, 5, 1, 4)
GAINS = (1.5, -0.5, 0.0, -2.0)
PROMPT = 2
"""Columns before the answers."""
BETA = 0.3


def a_pass(seed: int = 0) -> dict[str, torch.Tensor]:
    """Log-probabilities under three policies for four answers of unequal length, with padding."""
    draw = torch.Generator().manual_seed(seed)
    shape = (len(LENGTHS), PROMPT + max(LENGTHS))
    inputs = {"answer_mask": torch.zeros(shape, dtype=torch.float64), "advantages": torch.zeros(shape).double()}
    for row, (length, gain) in enumerate(zip(LENGTHS, GAINS, strict=True)):
        inputs["answer_mask"][row, PROMPT : PROMPT + length] = 1
        inputs["advantages"][row, PROMPT : PROMPT + length] = gain
    for name in ("engine_log_probs", "old_log_probs", "reference_log_probs"):
        inputs[name] = (-2 + torch.rand(shape, generator=draw).double()) * inputs["answer_mask"]
    return inputs


def policy(inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    draw = torch.Generator().manual_seed(9)
    log_probs = inputs["old_log_probs"] + torch.rand(inputs["old_log_probs"].shape, generator=draw).double() - 0.5
    return (log_probs * inputs["answer_mask"]).requires_grad_()


def by_hand(log_probs: torch.Tensor, inputs: dict[str, torch.Tensor], settings: GrpoSettings) -> torch.Tensor:
    """The loss of the four answers as one step, in loops over answers and tokens."""
    total = torch.zeros((), dtype=torch.float64)
    for row, length in enumerate(LENGTHS):
        at = range(PROMPT, PROMPT + length)
        new, old = [log_probs[row, t] for t in at], [inputs["old_log_probs"][row, t] for t in at]
        engine, reference = ([inputs[f"{who}_log_probs"][row, t] for t in at] for who in ("engine", "reference"))
        steps = [n - o for n, o in zip(new, old, strict=True)]
        lags = [o - e for o, e in zip(old, engine, strict=True)]
        if settings.importance_sampling == "sequence":
            steps, lags = [sum(steps) / length] * length, [sum(lags) / length] * length
        answer = torch.zeros((), dtype=torch.float64)
        for t in range(length):
            ratio, weight = torch.exp(steps[t]), min(math.exp(lags[t]), settings.rollout.max_importance_weight)
            bounded = min(max(ratio, 1 - settings.epsilon_low), 1 + settings.epsilon_high)
            ahead = reference[t] - new[t]
            kl = torch.exp(ahead) - ahead - 1
            answer = answer - weight * min(ratio * GAINS[row], bounded * GAINS[row]) + BETA * kl
        total = (
            total
            + {
                "token": answer / sum(LENGTHS),
                "sequence": answer / length / len(LENGTHS),
                "constant": answer / settings.rollout.max_new_tokens / len(LENGTHS),
            }[settings.loss_normalization]
        )
    return total


@pytest.mark.parametrize("normalization", ["token", "sequence", "constant"])
@pytest.mark.parametrize("ratio", ["token", "sequence"])
def test_loss_and_gradient_equal_those_by_hand(ratio: str, normalization: str):
    rollout = RolloutSettings(max_new_tokens=7, max_importance_weight=1.2)
    settings = GrpoSettings(
        rollout=rollout,
        importance_sampling=ratio,
        loss_normalization=normalization,
        epsilon_low=0.02,
        epsilon_high=0.04,
    )
    inputs = a_pass()
    shares = token_shares(LENGTHS, normalization=normalization, longest=7)
    weights = inputs["answer_mask"] * torch.tensor(shares, dtype=torch.float64)[:, None]
    found, wanted = policy(inputs), policy(inputs)
    losses, measures = token_losses(found, inputs, settings=settings, beta=BETA)
    loss, hand = (losses * weights).sum(), by_hand(wanted, inputs, settings)
    loss.backward()
    hand.backward()
    assert loss.item() == pytest.approx(hand.item(), abs=1e-9)
    assert torch.allclose(found.grad, wanted.grad, atol=1e-9)
    assert 0 < float(measures["clip_ratio"][weights > 0].mean()) < 1


def test_at_the_first_iteration_the_gradient_is_that_of_the_policy_gradient():
    inputs = a_pass()
    del inputs["old_log_probs"]
    inputs["engine_log_probs"] = torch.zeros_like(inputs["engine_log_probs"])
    log_probs = torch.zeros_like(inputs["engine_log_probs"]).requires_grad_()
    losses, _ = token_losses(log_probs, inputs, settings=GrpoSettings(), beta=0.0)
    (losses * inputs["answer_mask"]).sum().backward()
    assert torch.allclose(log_probs.grad, -inputs["advantages"] * inputs["answer_mask"])


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=12))
def test_advantages_of_a_group_sum_to_nothing_and_keep_its_order(rewards: list[float]):
    for leave_one_out in (False, True):
        for scale in (False, True):
            gains = advantages(rewards, leave_one_out=leave_one_out, scale=scale)
            assert sum(gains) == pytest.approx(0, abs=1e-6)
            ranked = sorted(zip(rewards, gains, strict=True))
            assert [gain for _, gain in ranked] == sorted(gains)


@given(st.lists(st.floats(-100, 100), min_size=2, max_size=12))
def test_leave_one_out_compares_with_the_mean_of_the_others(rewards: list[float]):
    gains = advantages(rewards, leave_one_out=True, scale=False)
    for at, gain in enumerate(gains):
        assert gain == pytest.approx(rewards[at] - fmean(rewards[:at] + rewards[at + 1 :]), abs=1e-9)


@given(st.lists(st.sampled_from([0.0, 0.25, 1.0]), min_size=2, max_size=12))
def test_scaled_advantages_have_unit_spread_unless_the_rewards_are_equal(rewards: list[float]):
    spread = pstdev(advantages(rewards))
    assert spread == pytest.approx(1.0 if len(set(rewards)) > 1 else 0.0, abs=1e-4)


@given(st.lists(st.integers(1, 40), min_size=1, max_size=9))
def test_token_shares_weigh_what_they_say(lengths: list[int]):
    by_token = token_shares(lengths, normalization="token", longest=40)
    by_answer = token_shares(lengths, normalization="sequence", longest=40)
    assert len(set(by_token)) == 1
    assert sum(share * n for share, n in zip(by_token, lengths, strict=True)) == pytest.approx(1)
    assert all(share * n == pytest.approx(1 / len(lengths)) for share, n in zip(by_answer, lengths, strict=True))
    # Dr. GRPO: a token weighs the same whatever the length of its answer, and of the others.
    assert set(token_shares(lengths, normalization="constant", longest=40)) == {1 / (40 * len(lengths))}
