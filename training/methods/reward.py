"""Reward models: a scalar head learns which of two answers is preferred (Ouyang et al. 2022)."""

from dataclasses import dataclass, replace

from training.methods.dpo import DPO
from training.methods.method import REWARD_MEASURES, Method
from training.spec import Evaluation, Spec


@dataclass(frozen=True, kw_only=True)
class RewardSettings:
    """What only reward models know."""

    center_weight: float = 0.01
    """c: weight of (r_chosen + r_rejected)², which keeps rewards around zero."""
    use_margin: bool = False
    """Whether the chosen answer must be ahead by how much better it was rated."""


def contradictions(spec: Spec) -> list[tuple[str, str]]:
    """A LoRA that would be left without the head."""
    if spec.lora and not spec.lora.merge:
        return [("lora.merge", "must be true for reward, because a LoRA has no place for the reward head")]
    return []


REWARD = Method(
    name="reward",
    rows="rated_pair",
    lacks=("beta",),
    defaults=replace(
        DPO.defaults,
        learning_rate=3e-4,
        num_epochs=2.0,
        batch_size=32,
        beta=0.0,
        evaluation=Evaluation(holdout_fraction=0.1),
    ),
    settings=RewardSettings,
    contradictions=contradictions,
    measures=REWARD_MEASURES,
)
