"""The alignment job of the demo: what `omnialign demo` submits for a seed.

The settings are the same for every seed; docs/results/demo.md has the results and says what has not been tuned.
"""

import copy
from typing import Any

from examples.tinyworld.dataset import Sizes

SMALL = Sizes(train=60, prompts=30, validation=0, test=4)
"""Rows per subtask of the small demo, which shows that everything works, not how well."""
SMALL_STEPS = {"feedback_training": 150, "judge_training": 150}
SMALL_OPTIMIZATION_STEPS = 12
"""Training steps of the small demo; a judge with fewer would let no pair through the gate."""

GATE_PRECISION = 0.75
"""On annotated pairs, where either response is as likely to be better, and the judge is right three times of four. Of
the refinements nearly all are better, and so are more of those that pass: see docs/results/gate.md."""

MODEL_ID, DATASET_ID, JOB_ID = "tinyworld-base", "tinyworld", "demo"

REWARDS = [{"critic": "trained"}, {"checker": "tinyworld", "weight": 0.0}]
"""Of reinforcement learning: what the critic of the job says of an answer; the oracle only watches."""
COMMON = {"batch_size": 32, "num_epochs": 4, "warmup_ratio": 0.05}
OPTIMIZATION: dict[str, dict[str, Any]] = {
    "sft": {"hyperparameters": {**COMMON, "learning_rate": 5e-4}},
    "dpo": {"hyperparameters": {**COMMON, "learning_rate": 3e-4, "beta": 0.3, "sft_weight": 5.0}},
    "kto": {"hyperparameters": {**COMMON, "learning_rate": 3e-4, "beta": 0.3, "sft_weight": 1.0}},
    "simpo": {"hyperparameters": {**COMMON, "learning_rate": 5e-4, "beta": 2.0, "sft_weight": 5.0}},
    "orpo": {"hyperparameters": {**COMMON, "learning_rate": 5e-4, "beta": 0.2, "sft_weight": 1.0}},
    "sdpo": {"hyperparameters": {**COMMON, "learning_rate": 5e-4}},
    "grpo": {
        "hyperparameters": {"batch_size": 16, "max_steps": 60, "warmup_ratio": 0.05, "learning_rate": 4e-4},
        "grpo": {
            "group_size": 8,
            "rollout": {
                "max_new_tokens": 160,
                "rewards": REWARDS,
            },
        },
    },
    "ppo": {
        "hyperparameters": {"batch_size": 64, "max_steps": 60, "warmup_ratio": 0.05, "learning_rate": 4e-4},
        "ppo": {
            "rollout": {
                "max_new_tokens": 160,
                "rewards": REWARDS,
            },
        },
    },
}
"""What the demo tells each method; the fields of an `Optimization` but for its method."""


def spec(seed: int, *, dataset: str, base_model: str, method: str = "dpo", small: bool = False) -> dict[str, Any]:
    """An `AlignmentSpec` as proto JSON with original field names; `small` trains for only a few steps."""
    wanted = _spec(seed, dataset=dataset, base_model=base_model, method=method)
    if small:
        for stage, steps in SMALL_STEPS.items():
            wanted[stage] |= {"max_steps": steps}
        wanted["optimization"]["hyperparameters"] |= {"max_steps": SMALL_OPTIMIZATION_STEPS}
    return wanted


def _spec(seed: int, *, dataset: str, base_model: str, method: str) -> dict[str, Any]:
    return {
        "base_model": base_model,
        "dataset": dataset,
        "feedback_split": "train",
        "prompt_split": "prompts",
        "evaluation_split": "test",
        "feedback_fraction": 1.0,
        "pair_source": "PAIR_SOURCE_LANGUAGE_FEEDBACK",
        "chunk_size": 64,
        "seed": str(seed),
        "sampling": {"temperature": 1.0, "top_p": 1.0},
        "feedback_training": {"learning_rate": 3e-3, "batch_size": 16, "num_epochs": 3, "warmup_ratio": 0.05},
        "judge_training": {"learning_rate": 3e-3, "batch_size": 16, "num_epochs": 2, "warmup_ratio": 0.05},
        "gate_precision": GATE_PRECISION,
        "optimization": {"method": method} | copy.deepcopy(OPTIMIZATION[method]),
        "distribution": {"num_processes": 2, "zero_stage": 2, "precision": "fp32"},
        "checkers": ["tinyworld"],
    }
