"""Supervised fine-tuning: learn to write the answers of the data."""

from training.methods.method import Method
from training.spec import Hyperparameters

SFT = Method(
    name="sft",
    rows="answer",
    lacks=("beta", "sft_weight"),
    defaults=Hyperparameters(
        learning_rate=1e-3, num_epochs=3.0, batch_size=32, max_length=1024, warmup_ratio=0.05, weight_decay=0.0
    ),
)
