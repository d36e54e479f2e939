"""The training methods, one record each in the file of its name, and what follows from them for a spec.

The records are light, so that a spec can be checked and completed where no torch is installed.
"""

from dataclasses import fields, replace

from training.methods.dpo import DPO
from training.methods.grpo import GRPO
from training.methods.kto import KTO
from training.methods.method import Method
from training.methods.orpo import ORPO
from training.methods.ppo import PPO
from training.methods.reward import REWARD
from training.methods.sdpo import SDPO
from training.methods.sft import SFT
from training.methods.simpo import SIMPO
from training.spec import Hyperparameters, Spec

METHODS: dict[str, Method] = {method.name: method for method in (SFT, REWARD, DPO, KTO, SIMPO, ORPO, SDPO, GRPO, PPO)}


def complete(spec: Spec, *, num_processes: int) -> Hyperparameters:
    """A spec's hyperparameters with every zero replaced by the method's default.

    The batch size is rounded up to what all processes take in one pass. Only a default can change by that: a given
    batch size that does not divide is refused with the spec.
    """
    given, defaults = spec.hyperparameters, METHODS[spec.method].defaults_under(spec.settings)
    filled = replace(given, **{f.name: getattr(given, f.name) or getattr(defaults, f.name) for f in fields(given)})
    filled = replace(filled, evaluation=replace(given.evaluation, holdout_fraction=holdout_fraction(spec)))
    if given.no_warmup:
        filled = replace(filled, warmup_ratio=0.0)
    if METHODS[spec.method].rows == "prompt":
        return filled  # processes share the answers to a step's prompts, whatever their number
    unit = num_processes * max(filled.micro_batch_size, 1)
    return replace(filled, batch_size=-(-filled.batch_size // unit) * unit)


def holdout_fraction(spec: Spec) -> float:
    """The share of a spec's rows that is to be held out."""
    given, default = spec.hyperparameters.evaluation, METHODS[spec.method].defaults.evaluation
    return (default if given.holdout_fraction is None else given).holdout_fraction or 0.0
