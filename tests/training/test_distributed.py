"""DeepSpeed's stage."""

import pytest

from training.distributed import deepspeed_config
from training.spec import Distribution


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_the_stage_survives_a_change_of_another_copy(stage: int):
    deepspeed_config(Distribution(zero_stage=stage))["zero_optimization"]["stage"] = 0
    assert deepspeed_config(Distribution(zero_stage=stage))["zero_optimization"]["stage"] == stage
