"""DeepSpeed's stage and precision."""

import pytest

from training.distributed import deepspeed_config
from training.spec import Distribution


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_stage_survives_a_change_of_another_copy(stage: int):
    deepspeed_config(Distribution(zero_stage=stage))["zero_optimization"]["stage"] = 0
    assert deepspeed_config(Distribution(zero_stage=stage))["zero_optimization"]["stage"] == stage


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_bf16_computes_in_bfloat16_on_weights_of_float32(stage: int):
    plain, config = (deepspeed_config(Distribution(zero_stage=stage, precision=p)) for p in ("fp32", "bf16"))
    assert config.pop("torch_autocast") == {"enabled": True, "dtype": "bfloat16"}
    assert config == plain
    assert not config.get("bf16", {}).get("enabled")
