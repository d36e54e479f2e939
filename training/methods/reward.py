"""Reward models: a scalar head learns which of two answers is preferred (Ouyang et al. 2022)."""

from dataclasses import dataclass, replace

from training.methods.dpo import DPO
from training.methods.method import REWARD_MEASURES, Method
from training.spec import Spec

MAX_HOLDOUT = 0.5


@dataclass(frozen=True, kw_only=True)
class RewardSettings:
    """What only reward models know."""

    center_weight: float = 0.01
    """c: weight of (r_chosen + r_rejected)², which keeps rewards around zero."""
    use_margin: bool = False
    """Whether the chosen answer must be ahead by how much better it was rated."""
    holdout_fraction: float = 0.1
    """Share of the pairs that are evaluated at the end instead of learnt; none of fewer than 50."""


def contradictions(spec: Spec) -> list[tuple[str, str]]:
    """A share out of range, and a LoRA that would be left without the head."""
    found, share = [], spec.settings.holdout_fraction
    if share > MAX_HOLDOUT:
        found.append(("reward.holdout_fraction", f"must be at most {MAX_HOLDOUT:g}, not {share:g}"))
    if spec.lora and not spec.lora.merge:
        found.append(("lora.merge", "must be true for reward, because a LoRA has no place for the reward head"))
    return found


REWARD = Method(
    name="reward",
    rows="rated_pair",
    defaults=replace(DPO.defaults, learning_rate=3e-4, num_epochs=2.0, batch_size=32, beta=0.0),
    settings=RewardSettings,
    contradictions=contradictions,
    measures=REWARD_MEASURES,
)
