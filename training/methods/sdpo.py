"""SDPO (Hübotter et al. 2026): distils language feedback; the teacher is the model itself, shown the feedback."""

from dataclasses import dataclass, replace
from typing import Literal

from training.methods.dpo import DPO
from training.methods.method import Measure, Method
from training.spec import Spec

WHOLE_VOCABULARY = 8192
"""Up to so many tokens, distributions are compared whole unless `top_k` says."""
TOP_K = 100


@dataclass(frozen=True, kw_only=True)
class SdpoSettings:
    """What only SDPO knows."""

    along: Literal["response", "refinement", "both"] = "both"
    """Whose tokens are distilled: the criticised response y, its refinement y* where the gate kept one, or both."""
    divergence: Literal["forward", "reverse", "jsd"] = "forward"
    """KL(teacher || student), KL(student || teacher), or the Jensen-Shannon divergence."""
    teacher: Literal["initial", "ema"] = "initial"
    """The weights of the start, or an exponential moving average of the student's."""
    ema_decay: float = 0.95
    """How much of the average each step keeps."""
    top_k: int = 0
    """Tokens of the teacher's distribution that are kept apart, the rest as one; 0 is all up to 8,192, else 100."""


def num_compared(settings: SdpoSettings, vocabulary: int) -> int:
    """Of how many tokens a distribution is compared one by one."""
    return min(settings.top_k or (vocabulary if vocabulary <= WHOLE_VOCABULARY else TOP_K), vocabulary)


def contradictions(spec: Spec) -> list[tuple[str, str]]:
    """Settings that sdpo has no place for."""
    settings: SdpoSettings = spec.settings
    found = []
    if settings.ema_decay >= 1:
        found.append(("sdpo.ema_decay", f"must be below 1, not {settings.ema_decay:g}"))
    if spec.distribution.zero_stage == 3:
        found.append(("distribution.zero_stage", "must be 0, 1 or 2 for sdpo, whose teacher copies whole weights"))
    return found


SDPO = Method(
    name="sdpo",
    rows="critiqued",
    lacks=("beta", "sft_weight"),
    defaults=replace(DPO.defaults, beta=0.0, sft_weight=0.0),
    settings=SdpoSettings,
    row_settings=("along",),
    contradictions=contradictions,
    copies="learnt",
    num_compared=num_compared,
    measures={
        "teacher_agreement": Measure(
            "teacher_agreement_ratio", "Share of tokens that are the likeliest for student and teacher alike."
        )
    },
)
