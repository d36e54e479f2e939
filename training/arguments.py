"""The settings of a `transformers` trainer from a spec."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from training import distributed
from training.spec import Hyperparameters, Spec

NEVER = 10**9


def common(spec: Spec, hyperparameters: Hyperparameters, *, seed: int) -> dict[str, Any]:
    """The settings that every method shares. Precision lives in DeepSpeed's configuration, not here."""
    num_processes = distributed.world_size()
    per_process = hyperparameters.batch_size // num_processes
    micro = hyperparameters.micro_batch_size or per_process
    return {
        "output_dir": str(spec.output_dir / "checkpoints"),
        "deepspeed": distributed.deepspeed_config(spec.distribution),
        "learning_rate": hyperparameters.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": hyperparameters.warmup_ratio,
        "weight_decay": hyperparameters.weight_decay,
        "num_train_epochs": hyperparameters.num_epochs,
        "max_steps": hyperparameters.max_steps or -1,
        "per_device_train_batch_size": micro,
        "gradient_accumulation_steps": per_process // micro,
        "max_grad_norm": 1.0,
        "seed": seed,
        "save_strategy": "steps",
        "save_steps": hyperparameters.checkpoint_every_steps or NEVER,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "report_to": [],
        "disable_tqdm": True,
        "bf16": False,
        # TRL turns both names on by default.
        "gradient_checkpointing": None,
        "activation_checkpointing": False,
        "accelerator_config": {"use_configured_state": True},
        "dataloader_num_workers": 0,
        "dataloader_pin_memory": False,
        "remove_unused_columns": False,
        "log_level": "warning",
    }


def checkpoints_dir(spec: Spec) -> Path:
    """Where a run keeps its checkpoints."""
    return spec.output_dir / "checkpoints"


def by_length(lengths: Sequence[int]) -> list[int]:
    """The indices of the examples from short to long."""
    return sorted(range(len(lengths)), key=lambda index: (lengths[index], index))
