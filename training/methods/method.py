"""What a training method is: everything that is known of it without torch."""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from training.spec import Hyperparameters, Spec

Rows = Literal["answer", "pair", "rated_pair", "labelled", "critiqued", "prompt"]
"""What one row of the data is: a prompt with an answer to learn, with a preferred and a rejected answer, with one that
is good or bad, with one that has feedback, or alone.

In a `rated_pair` ratings say by how far the one is better, and which one it is where no preference does.
"""


@dataclass(frozen=True)
class NoSettings:
    """What a method knows that has no settings of its own."""


@dataclass(frozen=True)
class Measure:
    """A number of each step that is also a Prometheus metric, `omnialign_train_{name}`."""

    name: str
    words: str
    """What it means, for the metric's description."""


REWARD_MEASURES: Mapping[str, Measure] = {
    "rewards/margins": Measure("reward_margin", "How far chosen answers are ahead."),
    "rewards/accuracies": Measure("reward_accuracy_ratio", "Share of pairs whose chosen answer is ahead."),
}
"""What all methods on pairs measure, by the names in the trainer's log."""


@dataclass(frozen=True, kw_only=True)
class Method:
    """One training method. Its torch part is `build(inputs)` in `training/trainers/{name}.py`."""

    name: str
    rows: Rows
    defaults: Hyperparameters
    """What a zero in the hyperparameters stands for. The table in `training/README.md` says the same."""
    lacks: tuple[str, ...] = ()
    """Hyperparameters for which its loss has no term."""
    settings: type[Any] = NoSettings
    """The dataclass of what only this method knows; in a spec it is a section of the method's name."""
    row_settings: tuple[str, ...] = ()
    """Names of those of its own settings that decide what a record teaches."""
    defaults_of: Callable[[Any], Mapping[str, Any]] = lambda settings: {}
    """Defaults that differ under some of its own settings, by the names of hyperparameters."""
    contradictions: Callable[[Spec], Sequence[tuple[str, str]]] = lambda spec: ()
    """Problems between its settings that are each valid alone, as (path, problem)."""
    copies: Literal["", "model", "learnt"] = ""
    """Which weights it holds a second time: the whole model as its reference, unless `beta` is 0 or a LoRA can be
    switched off instead; or what learns, as its teacher."""
    num_compared: Callable[[Any, int], int] = lambda settings, vocabulary: 0
    """Of how many tokens of the vocabulary it compares a teacher's distribution, under its own settings; 0 for none."""
    measures: Mapping[str, Measure] = field(default_factory=dict)
    """What it measures beside loss, gradient and rate, by the names in the trainer's log."""

    def defaults_under(self, settings: Any) -> Hyperparameters:
        """What a zero in the hyperparameters stands for under these settings of its own."""
        return replace(self.defaults, **self.defaults_of(settings))

    def build(self, inputs: Any) -> Any:
        """The trainer of a run, a `DurableTrainer`; `inputs` is a `training.trainer_inputs.TrainerInputs`."""
        return importlib.import_module(f"training.trainers.{self.name}").build(inputs)
