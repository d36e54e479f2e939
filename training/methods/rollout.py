"""What the methods of reinforcement learning know in common: how answers are drawn, and what they are worth."""

from collections.abc import Iterator
from dataclasses import dataclass, field

from omnialign import checkers, names
from training.methods.method import Measure
from training.spec import Spec


@dataclass(frozen=True, kw_only=True)
class RewardTerm:
    """A part of an answer's reward: exactly one source, and its factor."""

    reward_model: str = ""
    """A reward model, by the name that JudgeService takes."""
    judge: str = ""
    """A judge model: the mean of the dimensions' scores, as a share of the best."""
    critic: str = ""
    """A feedback model: the mean of the scores that its critique gives, as a share of the best."""
    checker: str = ""
    """A program of the entry points `omnialign.checkers`: the mean of its scores, as a share of the best."""
    well_formed: bool = False
    """1 for an answer that ends by itself, can be read and is not empty, otherwise 0."""
    length_over: int = 0
    """Minus one for each token beyond this many."""
    weight: float = 1.0
    """Its factor; a term of weight 0 is measured and rewards nothing."""

    @property
    def name(self) -> str:
        """Which source it has; empty unless there is exactly one."""
        named = [name for name in SOURCES if getattr(self, name)]
        return named[0] if len(named) == 1 else ""


SOURCES = ("reward_model", "judge", "critic", "checker", "well_formed", "length_over")


@dataclass(frozen=True, kw_only=True)
class RolloutSettings:
    """How answers are drawn from the policy, and rewarded."""

    rewards: tuple[RewardTerm, ...] = ()
    """What an answer is worth: the weighted sum of the terms."""
    max_new_tokens: int = 256
    temperature: float = 1.0
    num_iterations: int = 1
    """μ: optimiser steps on each batch of answers."""
    max_staleness: int = 0
    """How many optimiser steps the policy that writes an answer may be behind the one that learns from it."""
    max_importance_weight: float = 2.0
    """Where the weights that correct for that are truncated."""
    deterministic: bool = False
    """Draws the same answers from the same weights and seeds, however requests are timed."""


@dataclass(frozen=True, kw_only=True)
class OnlineSettings:
    """What every method that draws its own answers has among its settings."""

    rollout: RolloutSettings = field(default_factory=RolloutSettings)

    @property
    def samples_per_prompt(self) -> int:
        """Answers drawn to each prompt."""
        return 1


def contradictions(spec: Spec) -> Iterator[tuple[str, str]]:
    """What is wrong with how a method draws its own answers and rewards them."""
    rollout, section = spec.settings.rollout, f"{spec.method}.rollout"
    if not rollout.rewards:
        yield f"{section}.rewards", f"must have at least one term, each with one of {', '.join(SOURCES)}"
    elif not any(term.weight for term in rollout.rewards):
        yield f"{section}.rewards", "must have a term with a weight above 0: the others are only measured"
    for index, term in enumerate(rollout.rewards):
        key = f"{section}.rewards[{index}]"
        if not term.name:
            yield key, f"must have exactly one of {', '.join(SOURCES)}"
        elif term.checker and term.checker not in checkers.known():
            listed = ", ".join(checkers.known()) or "none"
            yield f"{key}.checker", f"must be an installed checker ({listed}), not {term.checker!r}"
        for kind in ("reward_model", "judge", "critic"):
            model = getattr(term, kind)
            if model and "://" not in model and not names.matches(model, names.MODEL_VERSION):
                yield f"{key}.{kind}", f"must be the name of a model version or a location, not {model!r}"
    for name in ("max_new_tokens", "temperature", "num_iterations", "max_importance_weight"):
        if getattr(rollout, name) <= 0:
            yield f"{section}.{name}", "must be above 0"


ONLINE_MEASURES = {
    "rewards/mean": Measure("reward", "Mean reward of the last step's answers."),
    "rewards/std": Measure("reward_std", "Standard deviation of the last step's rewards."),
    "kl": Measure("kl", "Mean KL divergence per token from the start, in nats."),
    "log_probs/mean": Measure("mean_log_prob", "Mean log-probability of the answers' tokens under the policy."),
    "clip_ratio": Measure("clip_ratio", "Share of tokens whose probability ratio is beyond its clip."),
    "completions/length": Measure("completion_tokens", "Mean length of the last step's answers in tokens."),
    "dropped/samples": Measure("dropped_samples", "Answers of the last step that got no reward and taught nothing."),
    "dropped/groups": Measure("dropped_groups", "Prompts of the last step that had too few answers left."),
    "staleness": Measure("staleness_steps", "Steps that the policy which wrote the answers was behind the learner."),
    "importance/mean": Measure("importance_weight", "Mean weight that corrects for engine and staleness; 1 is none."),
}
"""What all methods that draw their own answers measure, by the names in the trainer's log."""
