"""Runs learn at the rates that published models need, whatever the precision of their weights and the ZeRO stage."""

import json
import random
import shutil
import sys
from pathlib import Path
from statistics import mean

import pytest
import torch
from safetensors.torch import load_file, save_file

from examples.tinyworld.faults import faulty_answer, prompt_pieces, right_answer
from examples.tinyworld.language import random_task
from examples.tinyworld.pretrain import FOLDER
from omnialign.modeling.answers import SUBTASKS
from omnialign.modeling.inputs import Turn
from tests.training.multimodal import prepare, start
from training.samples import Sample

STEPS, PAIRS = 80, 160


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """The tiny world's model in bfloat16."""
    folder = tmp_path / "base"
    shutil.copytree(FOLDER, folder)
    weights = {name: value.bfloat16() for name, value in load_file(folder / "model.safetensors").items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "dtype": "bfloat16"}))
    return folder


def pairs() -> list[Sample]:
    """Right answers over faulty ones, in all subtasks."""
    rng, made = random.Random(0), []
    while len(made) < PAIRS:
        task = random_task(rng, SUBTASKS[len(made) % len(SUBTASKS)])
        right, faulty = right_answer(task).pieces(), faulty_answer(rng, task).pieces()
        if right != faulty:
            made.append(Sample((Turn("user", prompt_pieces(task)),), (right, faulty)))
    return made


@pytest.mark.families
@pytest.mark.timeout(600)
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
def test_a_bfloat16_model_learns_at_a_small_rate_and_is_saved_in_bfloat16(tmp_path: Path, base: Path, zero_stage: int):
    run = tmp_path / "run"
    settings = {"max_steps": STEPS, "learning_rate": 5e-6, "batch_size": 16, "max_length": 1024}
    prepare(run, base=base, method="dpo", samples=pairs(), num_processes=1, zero_stage=zero_stage, **settings)
    assert start([sys.executable, "-m", "training", "dpo", "--spec", str(run / "job.yaml")]).wait() == 0
    rows = [json.loads(line) for line in (run / "progress.jsonl").read_text().splitlines()]
    assert len(rows) == STEPS
    assert all(row["grad_norm"] > 0 for row in rows)
    assert mean(row["rewards/accuracies"] for row in rows[-10:]) >= 0.9
    assert {value.dtype for value in load_file(run / "model" / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((run / "model" / "config.json").read_text())["dtype"] == "bfloat16"
