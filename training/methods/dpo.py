"""Direct preference optimisation (Rafailov et al. 2023) against a frozen copy of the start."""

from training.methods.method import REWARD_MEASURES, Method
from training.spec import Hyperparameters

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
    measures=REWARD_MEASURES,
)
