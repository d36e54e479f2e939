"""The alignment job of the instructions: what `omnialign demo --example instructions` submits for a seed.

Everything learns as LoRAs in bfloat16: on two cores, that takes a third of the time of full weights in float32. The
settings are the same for every seed; docs/results/demo-real.md has the results.
"""

import copy
from typing import Any

MODEL_ID, DATASET_ID, JOB_ID = "smollm2", "instructions", "demo-real"

LORA = {"rank": 16, "alpha": 32, "merge": True}
"""Merged, because an engine on a CPU serves whole models faster."""
COMMON = {"batch_size": 8, "warmup_ratio": 0.05}
OPTIMIZATION: dict[str, dict[str, Any]] = {
    "dpo": {
        "hyperparameters": {**COMMON, "learning_rate": 5e-4, "num_epochs": 3, "beta": 0.1, "sft_weight": 2.0},
        "lora": LORA,
    },
    "sft": {"hyperparameters": {**COMMON, "learning_rate": 5e-4, "num_epochs": 3}, "lora": LORA},
}
"""What the demo tells each method; the fields of an `Optimization` but for its method."""


def spec(seed: int, *, dataset: str, base_model: str, method: str = "dpo") -> dict[str, Any]:
    """An `AlignmentSpec` as proto JSON with original field names."""
    return {
        "base_model": base_model,
        "dataset": dataset,
        "feedback_split": "train",
        "prompt_split": "prompts",
        "evaluation_split": "test",
        "pair_source": "PAIR_SOURCE_LANGUAGE_FEEDBACK",
        "chunk_size": 40,
        "seed": str(seed),
        # One sentence is one line; what a small model adds below it is talk.
        "sampling": {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 40, "stop": ["\n"]},
        "feedback_sampling": {"temperature": 0.0, "max_new_tokens": 200},
        "feedback_training": {**COMMON, "learning_rate": 1e-3, "num_epochs": 2},
        "judge_training": {**COMMON, "learning_rate": 1e-3, "num_epochs": 1.5},
        "feedback_modeling_lora": LORA,
        "optimization": {"method": method} | copy.deepcopy(OPTIMIZATION[method]),
        "distribution": {"num_processes": 2, "zero_stage": 0, "precision": "bf16"},
        "checkers": ["instructions"],
    }
