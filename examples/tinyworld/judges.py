"""The judges of the tiny world's benchmark, as anyone would train them: on annotated answers, from the base model.

    rating     rates answers from 1 to 10, by their references or by what was asked for
    choosing   answers multiple-choice questions about sounds and videos
    synergy    rewards answers whose modalities go together (a reward model)

What they learn from shows no combination of attributes that is held out.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from examples.tinyworld import understanding
from examples.tinyworld.annotations import Annotated, annotated_records, choice_records, synergy_pairs

RATED = {**dict.fromkeys(understanding.SUBTASKS, 250), "t2t": 100, "t2i": 100}
"""How many records there are of each subtask whose answers are rated; sounds and videos are asked about instead."""
Records = Callable[[int, bool], Iterator[Annotated]]


@dataclass(frozen=True)
class Judge:
    """A judge to train: on which records, and how."""

    name: str
    records: Records
    """Those that it learns from, told a seed and whether a few will do."""
    training: Mapping[str, Any]
    """Fields of a `TrainingSpec`."""

    def spec(self, *, base_model: str, dataset: str, output: str, seed: int, small: bool) -> dict[str, Any]:
        """A `TrainingSpec` as proto JSON with original field names."""
        own = dict(self.training)
        steps = {"max_steps": SMALL_STEPS} if small else {}
        return own | {
            "base_model": base_model,
            "dataset": dataset,
            "output_model_id": output,
            "hyperparameters": {**HYPERPARAMETERS, **own["hyperparameters"], **steps, "seed": str(seed)},
            "distribution": {"num_processes": 2, "zero_stage": 2, "precision": "fp32"},
        }


HYPERPARAMETERS = {"batch_size": 16, "warmup_ratio": 0.05, "evaluation": {"holdout_fraction": 0.0}}
SMALL, SMALL_STEPS = 4, 4
"""Records of each kind, and steps, of a smoke test."""
ASKED, COMPARED = 1200, 1200
"""Questions, and pairs whose synergy is compared."""


def rated_records(seed: int, small: bool) -> Iterator[Annotated]:
    """Answers with ratings alone: nobody compared or criticised them."""
    for subtask, number in RATED.items():
        for record, media in annotated_records(subtask, SMALL if small else number, seed=seed):
            record.ClearField("preference")
            for response in record.responses:
                response.ClearField("feedback")
            yield record, media


JUDGES = (
    Judge(
        "rating",
        rated_records,
        {"method": "sft", "target": "judgement", "hyperparameters": {"learning_rate": 3e-3, "num_epochs": 3}},
    ),
    Judge(
        "choosing",
        lambda seed, small: choice_records(SMALL if small else ASKED, seed=seed),
        {"method": "sft", "target": "response", "hyperparameters": {"learning_rate": 3e-3, "num_epochs": 4}},
    ),
    Judge(
        "synergy",
        lambda seed, small: synergy_pairs(SMALL if small else COMPARED, seed=seed),
        {"method": "reward", "hyperparameters": {"learning_rate": 1e-3, "num_epochs": 3}},
    ),
)
