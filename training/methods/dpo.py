"""Direct preference optimisation (Rafailov et al. 2023) and its family, against a frozen copy of the start."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from training.methods.method import REWARD_MEASURES, Method
from training.spec import Hyperparameters, Spec

PREFERENCE_WEIGHT, QUALITY_WEIGHT = 0.8, 0.2
"""Of the terms of `mpo`, as published; the weight of its third term, 1, is the default of `sft_weight`."""


@dataclass(frozen=True, kw_only=True)
class DpoSettings:
    """What only DPO knows."""

    loss: Literal["sigmoid", "ipo", "mpo"] = "sigmoid"
    label_smoothing: float = 0.0
    """ε: the share of pairs that are expected to be the wrong way round."""
    length_normalized: bool = False
    """Whether log-ratios are taken per token, so that long answers weigh no more than short ones."""

    @property
    def takes_means(self) -> bool:
        """Whether the loss takes log-ratios per token."""
        return self.length_normalized or self.loss == "ipo"


def defaults_of(settings: DpoSettings) -> Mapping[str, Any]:
    """Log-ratios per token are smaller than those of answers, and take a larger β; mpo has a likelihood term."""
    return {
        **({"beta": 2.0} if settings.length_normalized else {}),
        **({"sft_weight": 1.0} if settings.loss == "mpo" else {}),
    }


def contradictions(spec: Spec) -> list[tuple[str, str]]:
    """Settings that a loss has no place for."""
    settings: DpoSettings = spec.settings
    found = []
    if settings.label_smoothing >= 0.5:
        found.append(("dpo.label_smoothing", f"must be below 0.5, not {settings.label_smoothing:g}"))
    if settings.label_smoothing and settings.loss == "ipo":
        found.append(("dpo.label_smoothing", "must be 0 with dpo.loss 'ipo', which has no labels to smooth"))
    if settings.length_normalized and settings.loss != "sigmoid":
        why = {"ipo": "takes log-ratios per token anyway", "mpo": "judges whole answers"}[settings.loss]
        found.append(("dpo.length_normalized", f"must be false with dpo.loss {settings.loss!r}, which {why}"))
    return found


DPO = Method(
    name="dpo",
    rows="pair",
    defaults=Hyperparameters(
        learning_rate=2e-4,
        num_epochs=2.0,
        batch_size=16,
        max_length=1024,
        warmup_ratio=0.1,
        weight_decay=0.0,
        beta=0.3,
        sft_weight=0.0,
    ),
    settings=DpoSettings,
    defaults_of=defaults_of,
    contradictions=contradictions,
    measures=REWARD_MEASURES,
)
