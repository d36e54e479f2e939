"""PPO's advantages, loss and control of the KL, against the formulas written out token by token."""

import math
import statistics

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.training import formulas
from tests.training.test_grpo import GAINS, LENGTHS, PROMPT, a_pass, policy
from training.methods.ppo import PpoSettings
from training.methods.rollout import RolloutSettings
from training.trainers.ppo import Moments, controlled, gae, token_losses


@given(
    st.lists(st.tuples(st.floats(-3, 3), st.floats(-3, 3)), min_size=1, max_size=7),
    st.integers(0, 3),
    st.integers(0, 3),
    st.floats(0, 1),
    st.floats(0, 1),
)
def test_advantages_are_discounted_sums_of_what_values_missed(
    tokens: list[tuple[float, float]], before: int, behind: int, discount: float, gae_lambda: float
):
    rewards, values = [list(column) for column in zip(*tokens, strict=True)]
    mask = torch.tensor([[0.0] * before + [1.0] * len(tokens) + [0.0] * behind], dtype=torch.float64)
    # What stands beside the answer must not matter.
    padded = [torch.tensor([[9.0] * before + row + [9.0] * behind], dtype=torch.float64) for row in (rewards, values)]
    found = gae(*padded, mask, discount=discount, gae_lambda=gae_lambda)
    wanted = formulas.gae(rewards, values, discount=discount, gae_lambda=gae_lambda)
    assert found[0, before : before + len(tokens)].tolist() == pytest.approx(wanted, abs=1e-9)
    assert not found[mask == 0].any()


def test_loss_and_gradient_equal_those_by_hand():
    settings = PpoSettings(
        rollout=RolloutSettings(max_importance_weight=1.2), epsilon=0.1, value_epsilon=0.3, value_weight=0.4
    )
    inputs = a_pass()
    draw = torch.Generator().manual_seed(4)
    inputs["old_values"], inputs["returns"], values = (
        torch.rand(inputs["answer_mask"].shape, generator=draw).double() * 2 * inputs["answer_mask"] for _ in range(3)
    )
    found, wanted = policy(inputs), policy(inputs)
    found_values, wanted_values = values.clone().requires_grad_(), values.clone().requires_grad_()
    losses, measures = token_losses(found, found_values, inputs, settings=settings)
    loss = (losses * inputs["answer_mask"]).sum() / sum(LENGTHS)
    total = torch.zeros((), dtype=torch.float64)
    for row, length in enumerate(LENGTHS):
        for t in range(PROMPT, PROMPT + length):
            old, engine = inputs["old_log_probs"][row, t], inputs["engine_log_probs"][row, t]
            ratio, weight = torch.exp(wanted[row, t] - old), min(math.exp(old - engine), 1.2)
            gain, was, goal = GAINS[row], inputs["old_values"][row, t], inputs["returns"][row, t]
            value = wanted_values[row, t]
            near = min(max(value, was - 0.3), was + 0.3)
            policy_loss = -weight * min(ratio * gain, min(max(ratio, 0.9), 1.1) * gain)
            total = total + policy_loss + 0.4 * max((value - goal) ** 2, (near - goal) ** 2) / 2
    total = total / sum(LENGTHS)
    loss.backward()
    total.backward()
    assert loss.item() == pytest.approx(total.item(), abs=1e-9)
    assert torch.allclose(found.grad, wanted.grad, atol=1e-9)
    # Where the value has not left the clip, both squares are equal and share the gradient.
    assert torch.allclose(found_values.grad, wanted_values.grad, atol=1e-9)
    assert 0 < float(measures["clip_ratio"][inputs["answer_mask"] > 0].mean()) < 1


def test_the_weight_of_the_kl_follows_its_target_slowly_and_stays_without_one():
    settings = PpoSettings(kl_target=6.0, kl_horizon=1000)
    assert controlled(0.1, 6.0, 100, settings=settings) == 0.1
    assert controlled(0.1, 6.6, 100, settings=settings) == pytest.approx(0.1 * 1.01)
    assert controlled(0.1, 600.0, 100, settings=settings) == pytest.approx(0.1 * 1.02)
    assert controlled(0.1, 0.0, 100, settings=settings) == pytest.approx(0.1 * 0.98)
    assert controlled(0.1, 600.0, 100, settings=PpoSettings()) == 0.1


@given(st.lists(st.lists(st.floats(-100, 100), min_size=1, max_size=5), min_size=1, max_size=5))
def test_rewards_are_normalised_by_all_of_the_run_so_far(batches: list[list[float]]):
    moments = Moments()
    for batch in batches:
        moments = moments.with_numbers(batch)
    seen = [number for batch in batches for number in batch]
    mean, std = statistics.fmean(seen), statistics.pstdev(seen)
    assert moments.mean == pytest.approx(mean, abs=1e-9)
    assert math.sqrt(moments.squares / len(seen)) == pytest.approx(std, abs=1e-6)
    if std > 1e-3:
        assert moments.normalized(batches[-1]) == pytest.approx([(n - mean) / std for n in batches[-1]], abs=1e-3)


def test_rewards_that_are_all_equal_say_nothing():
    assert Moments().with_numbers([0.3, 0.3]).normalized([0.3]) == [0.0]
