"""SimPO (Meng et al. 2024): preference optimisation on mean log-probabilities, without a reference."""

from dataclasses import dataclass, replace

from training.methods.dpo import DPO
from training.methods.method import REWARD_MEASURES, Method


@dataclass(frozen=True, kw_only=True)
class SimpoSettings:
    """What only SimPO knows."""

    margin: float = 1.0
    """γ: how far a chosen answer's reward should be ahead of the rejected one's."""


SIMPO = Method(
    name="simpo",
    rows="pair",
    defaults=replace(DPO.defaults, learning_rate=1e-4, beta=2.0),
    settings=SimpoSettings,
    measures=REWARD_MEASURES,
)
