"""Runs learn at the rates that published models need, whatever the precision of their weights and the ZeRO stage."""

import json
import os
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from statistics import mean

import pytest
import torch
from safetensors.torch import load_file, save_file

from examples.tinyworld.faults import faulty_answer, prompt_pieces, right_answer
from examples.tinyworld.language import random_task
from examples.tinyworld.pretrain import FOLDER
from omnialign.modeling.inputs import Turn
from omnialign.rubrics import SUBTASKS
from tests.training.forked_ranks import run_ranks
from tests.training.multimodal import prepare
from training.samples import Sample

STEPS, PAIRS = 80, 160
STAGES = (0, 1, 2, 3)


def make_base(folder: Path) -> Path:
    """The tiny world's model in bfloat16."""
    shutil.copytree(FOLDER, folder, dirs_exist_ok=True)
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


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[int, tuple[Path, int | None]]:
    """The run of each ZeRO stage, with its exit code. One run leaves cores idle, so as many go side by side."""
    base, folder = make_base(tmp_path_factory.mktemp("base")), tmp_path_factory.mktemp("runs")
    settings = {"max_steps": STEPS, "learning_rate": 5e-6, "batch_size": 16, "max_length": 1024}
    folders = {stage: folder / str(stage) for stage in STAGES}
    samples = pairs()
    for stage, run in folders.items():
        prepare(run, base=base, method="dpo", samples=samples, num_processes=1, zero_stage=stage, **settings)
    with ThreadPoolExecutor(os.cpu_count()) as side_by_side:
        exits = side_by_side.map(train, folders.values())
        return dict(zip(folders, zip(folders.values(), exits, strict=True), strict=True))


def train(run: Path) -> int | None:
    """Trains in one process with one thread, and returns the exit code."""
    (code,) = run_ranks(run, "dpo", num_processes=1, timeout=800)
    return code


@pytest.mark.families
@pytest.mark.timeout(900)
@pytest.mark.parametrize("zero_stage", STAGES)
def test_a_bfloat16_model_learns_at_a_small_rate_and_is_saved_in_bfloat16(
    runs: dict[int, tuple[Path, int | None]], zero_stage: int
):
    run, exit_code = runs[zero_stage]
    assert exit_code == 0
    rows = [json.loads(line) for line in (run / "progress.jsonl").read_text().splitlines()]
    assert len(rows) == STEPS
    assert all(row["grad_norm"] > 0 for row in rows)
    assert mean(row["rewards/accuracies"] for row in rows[-10:]) >= 0.9
    assert {value.dtype for value in load_file(run / "model" / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((run / "model" / "config.json").read_text())["dtype"] == "bfloat16"
