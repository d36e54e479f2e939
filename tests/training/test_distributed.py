"""DeepSpeed's stage, and the order of the data."""

import random

import pytest

from training.batches import LengthSampler
from training.distributed import deepspeed_config
from training.launch import environment
from training.progress import require_finite
from training.spec import Distribution


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_stage_survives_a_change_of_another_copy(stage: int):
    deepspeed_config(Distribution(zero_stage=stage))["zero_optimization"]["stage"] = 0
    assert deepspeed_config(Distribution(zero_stage=stage))["zero_optimization"]["stage"] == stage


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


def test_the_environment_of_a_run_carries_no_secrets():
    kept = environment(
        {"PATH": "/bin", "AWS_SECRET_ACCESS_KEY": "x", "OMNIALIGN_DATA_ROOT": "y"}, num_processes=2, num_cpus=4
    )
    assert kept["PATH"] == "/bin"
    assert kept["OMP_NUM_THREADS"] == "2"
    assert not {"AWS_SECRET_ACCESS_KEY", "OMNIALIGN_DATA_ROOT"} & set(kept)


def test_a_loss_that_is_no_number_is_a_typed_failure():
    require_finite({"loss": 1.0, "grad_norm": 2.0}, step=1)
    with pytest.raises(Exception, match="loss is nan at step 3") as caught:
        require_finite({"loss": float("nan")}, step=3)
    assert caught.value.reason == "LOSS_NOT_FINITE"
