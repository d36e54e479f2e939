"""GRPO (Shao et al. 2024): answers to one prompt are compared with one another, so that no value model is needed."""

from dataclasses import dataclass
from typing import Literal

from training.methods import rollout
from training.methods.method import Method
from training.methods.rollout import ONLINE_MEASURES, OnlineSettings
from training.spec import Hyperparameters, Spec


@dataclass(frozen=True, kw_only=True)
class GrpoSettings(OnlineSettings):
    """What only GRPO knows, and what later work changed in it."""

    group_size: int = 8
    """G: answers to each prompt."""
    baseline: Literal["mean", "leave_one_out"] = "mean"
    """What a reward is compared with: the group's mean, or that of the others (RLOO)."""
    no_std_scaling: bool = False
    """Leaves advantages as they are instead of dividing them by the group's standard deviation (Dr. GRPO)."""
    epsilon_low: float = 0.2
    epsilon_high: float = 0.28
    """The ratio is clipped to [1 - epsilon_low, 1 + epsilon_high]; DAPO clips higher above than below."""
    importance_sampling: Literal["token", "sequence"] = "token"
    """Whether each token has a ratio of its own, or an answer one for all (GSPO)."""
    loss_normalization: Literal["token", "sequence", "constant"] = "token"
    """Averages over all tokens (DAPO), over each answer's first (GRPO), or divides by a constant (Dr. GRPO)."""
    max_redraws: int = 0
    """How often a group whose rewards are all equal is drawn again (DAPO)."""

    @property
    def samples_per_prompt(self) -> int:
        """Answers drawn to each prompt."""
        return self.group_size


def contradictions(spec: Spec) -> list[tuple[str, str]]:
    """Settings that cannot be used together, or with any reward."""
    found, settings = list(rollout.contradictions(spec)), spec.settings
    if settings.group_size < 2:
        found.append(("grpo.group_size", f"must be at least 2 answers to compare, not {settings.group_size}"))
    if settings.epsilon_low > 1:
        found.append(("grpo.epsilon_low", f"must be at most 1, not {settings.epsilon_low:g}"))
    return found


GRPO = Method(
    name="grpo",
    rows="prompt",
    lacks=("sft_weight",),
    defaults=Hyperparameters(
        learning_rate=1e-4, num_epochs=1.0, batch_size=16, max_length=1024, warmup_ratio=0.05, weight_decay=0.0
    ),
    settings=GrpoSettings,
    contradictions=contradictions,
    copies="model",
    measures=ONLINE_MEASURES,
)
