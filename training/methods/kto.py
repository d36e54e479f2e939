"""KTO (Ethayarajh et al. 2024): learns from answers that are good or bad, each alone."""

from dataclasses import dataclass, replace

from training.methods.dpo import DPO
from training.methods.method import Measure, Method
from training.spec import Spec


@dataclass(frozen=True, kw_only=True)
class KtoSettings:
    """What only KTO knows."""

    desirable_weight: float = 0.0
    """λ_D; 0 balances it against λ_U by the numbers of good and bad answers."""
    undesirable_weight: float = 0.0
    """λ_U; 0 likewise."""
    good_score: float = 2.0
    """A rated answer is good from this mean score on, 0 to 3."""
    bad_score: float = 1.0
    """A rated answer is bad up to this mean score; one between both is left out."""


def contradictions(spec: Spec) -> list[tuple[str, str]]:
    """Thresholds that would make an answer good and bad at once."""
    settings: KtoSettings = spec.settings
    if settings.bad_score >= settings.good_score:
        wanted = f"must be below kto.good_score ({settings.good_score:g}), not {settings.bad_score:g}"
        return [("kto.bad_score", wanted)]
    return []


KTO = Method(
    name="kto",
    rows="labelled",
    defaults=replace(DPO.defaults, batch_size=32),
    settings=KtoSettings,
    row_settings=("good_score", "bad_score"),
    contradictions=contradictions,
    measures={
        "rewards/margins": Measure("reward_margin", "How far good answers are ahead of bad ones on average."),
        "rewards/accuracies": Measure(
            "reward_accuracy_ratio", "Share of answers on their side of the reference point."
        ),
        "reference_point": Measure("reference_point", "KTO's z, an estimate of the policy's KL from the start."),
    },
)
