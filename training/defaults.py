"""What a zero in the hyperparameters stands for, by method; `training/README.md` carries the same table."""

from dataclasses import fields, replace

from training.spec import Hyperparameters

SFT = Hyperparameters(
    learning_rate=1e-3, num_epochs=3.0, batch_size=32, max_length=1024, warmup_ratio=0.05, weight_decay=0.0
)
DPO = Hyperparameters(
    learning_rate=2e-4,
    num_epochs=2.0,
    batch_size=16,
    max_length=1024,
    warmup_ratio=0.1,
    weight_decay=0.0,
    beta=0.3,
    sft_weight=0.0,
)
BY_METHOD: dict[str, Hyperparameters] = {"sft": SFT, "dpo": DPO}


def complete(given: Hyperparameters, *, method: str, num_processes: int) -> Hyperparameters:
    """The hyperparameters with every zero replaced by the method's default.

    A default batch grows to the next multiple of what the processes take at once.
    """
    standard = BY_METHOD[method]
    filled = replace(given, **{f.name: getattr(given, f.name) or getattr(standard, f.name) for f in fields(given)})
    unit = num_processes * max(filled.micro_batch_size, 1)
    return replace(filled, batch_size=-(-filled.batch_size // unit) * unit)
