"""Imported once, where the processes of `forked_ranks` are forked from."""

from training.__main__ import _prepare_environment

_prepare_environment()

from tests.training import fixed_rollouts  # noqa: E402, F401
from training import runner  # noqa: E402, F401
from training.trainers import dpo, grpo, kto, orpo, ppo, reward, sdpo, sft, simpo  # noqa: E402, F401
