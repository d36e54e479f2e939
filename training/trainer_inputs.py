"""What the trainer of a run is built from, whatever its method."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from training import distributed, tuning
from training.batches import by_length
from training.example_file import Examples
from training.media import BatchMedia
from training.spec import Hyperparameters, Spec
from training.watchdog import Watchdog

if TYPE_CHECKING:
    from training.loop import DurableTrainer

NEVER = 10**9
"""More steps than any run has."""


@dataclass(frozen=True, kw_only=True)
class TrainerInputs:
    """What the trainer of a run is built from."""

    load_model: Callable[[], PreTrainedModel]
    """Loads the model; not before the trainer's arguments exist, which decide how ZeRO-3 places weights."""
    tokenizer: PreTrainedTokenizerBase
    examples: Examples
    """Those to learn from."""
    held_out: Examples
    """Those to evaluate, of the same file."""
    media: BatchMedia
    spec: Spec
    hyperparameters: Hyperparameters
    """Those of the spec, completed."""
    watchdog: Watchdog

    @property
    def arguments(self) -> dict[str, Any]:
        """The arguments that the `transformers` trainers of all methods share."""
        return common_arguments(self.spec, self.hyperparameters)

    @property
    def shown(self) -> Examples:
        """The examples of the trainer's rows: those to learn from, and then those to evaluate."""
        return self.examples + self.held_out

    def by_length(self) -> "TrainerInputs":
        """The same with either examples from short to long."""
        return replace(self, examples=by_length(self.examples), held_out=by_length(self.held_out))

    def give_lengths(self, trainer: "DurableTrainer") -> None:
        """Tells a trainer how long its rows are."""
        trainer.lengths, trainer.held_out_lengths = self.examples.lengths, self.held_out.lengths


def common_arguments(spec: Spec, hyperparameters: Hyperparameters) -> dict[str, Any]:
    """The arguments that the `transformers` trainers of all methods share."""
    per_process = hyperparameters.batch_size // distributed.world_size()
    micro = hyperparameters.micro_batch_size or per_process
    return {
        "output_dir": str(spec.output_dir / "checkpoints"),
        "deepspeed": distributed.deepspeed_config(spec.distribution),
        "learning_rate": hyperparameters.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": hyperparameters.warmup_ratio,  # below 1 it is a share of the steps
        "weight_decay": hyperparameters.weight_decay,
        "num_train_epochs": hyperparameters.num_epochs,
        "max_steps": hyperparameters.max_steps or -1,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": per_process // micro,
        "max_grad_norm": 1.0,
        "seed": hyperparameters.seed % 2**32,  # numpy takes no more bits
        "save_strategy": "steps",
        "save_steps": hyperparameters.checkpoint_every_steps or NEVER,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # it would show the last good loss in place of a NaN
        "report_to": [],
        "disable_tqdm": True,
        "bf16": False,  # precision is in DeepSpeed's configuration
        **tuning.checkpointing(spec),
        "accelerator_config": {"use_configured_state": True},  # see distributed._tell_accelerate
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
        "log_level": "warning",
    }
