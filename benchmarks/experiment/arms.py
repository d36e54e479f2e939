"""The arms: what each policy is trained by, and on what. All start from one base model, and see one dataset."""

import re
from dataclasses import dataclass
from typing import Any, Literal

from examples.tinyworld import recipe

Rates = tuple[float, ...]


@dataclass(frozen=True)
class Source:
    """An alignment job that makes the pairs of one or more arms."""

    job_id: str
    share: float | None
    """Share of the annotated language feedback that its feedback model learns from. None: there is none, and the pairs
    are annotated binary preferences."""


BINARY = Source("binary", None)
LANGUAGE = Source("language-100", 1.0)


@dataclass(frozen=True)
class Arm:
    """A way to train the policy."""

    name: str
    method: Literal["", "dpo", "ppo", "sdpo"]
    """Nothing for the base model itself."""
    source: Source
    reward: Literal["", "reward_model", "critic"] = ""
    """What rewards the answers of reinforcement learning: a model of the source's pairs, or its feedback model."""
    tuned_as: str = ""
    """The arm whose learning rate it takes over; empty for one that is tuned itself."""

    @property
    def job_id(self) -> str:
        """How its jobs and files begin."""
        return re.sub(r"[^a-z0-9]+", "-", self.name.lower()).strip("-")

    @property
    def rates(self) -> Rates:
        """The learning rates that it is tuned over; none if it is not tuned itself."""
        return () if self.tuned_as else RATES[self.method]


BASE = Arm("base", "", BINARY)
ARMS = (
    BASE,
    Arm("DPO", "dpo", BINARY),
    Arm("PPO", "ppo", BINARY, reward="reward_model"),
    Arm("DPO+LLF", "dpo", LANGUAGE),
    Arm("PPO+LLF", "ppo", LANGUAGE, reward="reward_model"),
    Arm("PPO+critic", "ppo", LANGUAGE, reward="critic"),
    Arm("SDPO", "sdpo", LANGUAGE),
    *(Arm(f"DPO+LLF {s} %", "dpo", Source(f"language-{s}", s / 100), tuned_as="DPO+LLF") for s in (25, 50, 75)),
)
METHOD_ARMS = ("base", "DPO", "PPO", "DPO+LLF", "PPO+LLF", "PPO+critic", "SDPO")
"""Those of the paper's figure 3, with two that it does not have."""
SHARE_ARMS = ("DPO+LLF 25 %", "DPO+LLF 50 %", "DPO+LLF 75 %", "DPO+LLF")
"""Those of the paper's figure 4, by the share of feedback."""

DPO_RATE = 1e-3
"""The rate with which the jobs of the sources train."""
_PPO_RATE: float = recipe.OPTIMIZATION["ppo"]["hyperparameters"]["learning_rate"]
RATES: dict[str, Rates] = {
    "": (),
    "dpo": (DPO_RATE / 2, DPO_RATE, DPO_RATE * 2),
    "ppo": (_PPO_RATE / 2, _PPO_RATE),
    "sdpo": (5e-4, 1e-3),
}
REWARD_TRAINING: dict[str, Any] = {
    "learning_rate": 1e-3,
    "num_epochs": 16,
    "batch_size": 32,
    "warmup_ratio": 0.05,
    "sft_weight": 1.0,
    "evaluation": {"holdout_fraction": 0.0},
}
"""Of both reward models, as docs/reward-models.md advises for few pairs. They learn from all their pairs, as many as
DPO does, and are tried on answers of the base model instead."""


def chosen(names: list[str]) -> tuple[Arm, ...]:
    """The arms of these names (none: all), with the base model and those whose rates they take over."""
    wanted = {*names, BASE.name, *(arm.tuned_as for arm in ARMS if arm.name in names)}
    return tuple(arm for arm in ARMS if not names or arm.name in wanted)
