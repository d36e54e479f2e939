"""PPO (Schulman et al. 2017) as in RLHF (Ouyang et al. 2022): a value head says what was to be expected."""

from collections.abc import Mapping
from dataclasses import dataclass

from training.methods import rollout
from training.methods.method import Measure, Method
from training.methods.rollout import ONLINE_MEASURES, OnlineSettings
from training.spec import Hyperparameters, Spec


@dataclass(frozen=True, kw_only=True)
class PpoSettings(OnlineSettings):
    """What only PPO knows."""

    num_samples: int = 1
    """Answers to each prompt."""
    discount: float = 1.0
    """γ: what a reward is worth a token earlier."""
    gae_lambda: float = 1.0
    """λ of generalised advantage estimation. Below 1 it trusts the values, which begin at zero."""
    normalize_rewards: bool = True
    """Rewards lose the mean of all of the run so far and are divided by their standard deviation. Values begin at zero,
    so without this the mean, often many times the spread, must be learnt before an advantage means anything."""
    epsilon: float = 0.2
    """The ratio is clipped to [1 - epsilon, 1 + epsilon]."""
    value_epsilon: float = 0.2
    """How far a value may move from the one before the first iteration."""
    value_weight: float = 0.1
    """Weight of the value head's loss beside the policy's."""
    kl_target: float = 0.0
    """KL of an answer, in nats, that the weight of the KL is controlled towards; 0 keeps the weight."""
    kl_horizon: int = 10_000
    """Answers over which the control acts."""

    @property
    def samples_per_prompt(self) -> int:
        """Answers drawn to each prompt."""
        return self.num_samples


def contradictions(spec: Spec) -> list[tuple[str, str]]:
    """Settings that cannot be used together, or with any reward."""
    found, settings = list(rollout.contradictions(spec)), spec.settings
    for name in ("num_samples", "kl_horizon"):
        if getattr(settings, name) < 1:
            found.append((f"ppo.{name}", f"must be at least 1, not {getattr(settings, name)}"))
    for name in ("discount", "gae_lambda"):
        if getattr(settings, name) > 1:
            found.append((f"ppo.{name}", f"must be at most 1, not {getattr(settings, name):g}"))
    return found


VALUE_MEASURES: Mapping[str, Measure] = {
    "value_loss": Measure("value_loss", "Loss of the value head in the last step."),
    "kl_weight": Measure("kl_weight", "Weight of the KL divergence in the reward."),
}

PPO = Method(
    name="ppo",
    rows="prompt",
    lacks=("sft_weight",),
    defaults=Hyperparameters(
        learning_rate=1e-4,
        num_epochs=1.0,
        batch_size=64,
        max_length=1024,
        warmup_ratio=0.05,
        weight_decay=0.0,
        beta=0.05,
    ),
    settings=PpoSettings,
    contradictions=contradictions,
    copies="model",
    measures={**ONLINE_MEASURES, **VALUE_MEASURES},
)
