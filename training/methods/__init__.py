"""The training methods: one record each here, one trainer each in the file of the same name.

The records are light, so that a spec can be checked and completed where no torch is installed.
"""

import importlib
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import Any, Literal

from training.spec import Hyperparameters, Spec, spec_invalid


@dataclass(frozen=True, kw_only=True)
class Method:
    """One training method."""

    name: str
    rows: Literal["answer", "pair"]
    """What it learns from: answers, or pairs of which one answer is preferred."""
    defaults: Hyperparameters
    """What a zero in the hyperparameters stands for. The table in `training/README.md` says the same."""

    def trainer_builder(self) -> Callable[..., Any]:
        """`build_trainer` of the method's file, which imports torch and TRL."""
        builder: Callable[..., Any] = importlib.import_module(f"training.methods.{self.name}").build_trainer
        return builder


SFT = Method(
    name="sft",
    rows="answer",
    defaults=Hyperparameters(
        learning_rate=1e-3, num_epochs=3.0, batch_size=32, max_length=1024, warmup_ratio=0.05, weight_decay=0.0
    ),
)
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
)
SIMPO = Method(name="simpo", rows="pair", defaults=replace(DPO.defaults, learning_rate=1e-4, beta=2.0))
ORPO = Method(name="orpo", rows="pair", defaults=replace(DPO.defaults, learning_rate=3e-4, beta=0.2, sft_weight=1.0))
METHODS = {method.name: method for method in (SFT, DPO, SIMPO, ORPO)}


def check(spec: Spec, *, method: str) -> None:
    """Raises `InvalidArgument` (TRAINING_SPEC_INVALID) for settings that the method does not have."""
    problems = [
        (name, f"is a setting of {name}; this run's method is {method}")
        for name in METHODS
        if name != method and hasattr(spec, name) and getattr(spec, name) != type(getattr(spec, name))()
    ]
    if spec.target and METHODS[method].rows == "pair":
        problems.append(("target", f"must be empty for {method}, which reads pairs"))
    if problems:
        raise spec_invalid(problems)


def complete(given: Hyperparameters, *, method: str, num_processes: int) -> Hyperparameters:
    """The hyperparameters with every zero replaced by the method's default.

    The batch size is rounded up to what all processes take in one pass. Only a default can change by that: a given
    batch size that does not divide is refused with the spec.
    """
    defaults = METHODS[method].defaults
    filled = replace(given, **{f.name: getattr(given, f.name) or getattr(defaults, f.name) for f in fields(given)})
    if given.no_warmup:
        filled = replace(filled, warmup_ratio=0.0)
    unit = num_processes * max(filled.micro_batch_size, 1)
    return replace(filled, batch_size=-(-filled.batch_size // unit) * unit)
