"""ORPO (Hong et al. 2024): fine-tuning and preference optimisation in one loss, without a reference."""

from dataclasses import replace

from training.methods.dpo import DPO
from training.methods.method import REWARD_MEASURES, Method

ORPO = Method(
    name="orpo",
    rows="pair",
    defaults=replace(DPO.defaults, learning_rate=3e-4, beta=0.2, sft_weight=1.0),
    measures=REWARD_MEASURES,
)
