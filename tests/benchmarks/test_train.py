"""The training benchmark: its contenders learn from the same pairs, and what it counts is what they took."""

import sys
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from benchmarks import train, train_contenders, train_memory
from benchmarks.train_runs import measured
from examples.tinyworld.pretrain import FOLDER
from training import fused_lm_head
from training.batches import PairCollator, pair_row
from training.packing import IGNORED


def test_the_hand_written_loop_scores_answers_as_our_trainer_does():
    pairs = train.tinyworld_pairs(9, seed=3)
    plain, ours = (AutoModelForCausalLM.from_pretrained(FOLDER, dtype=torch.float32) for _ in range(2))
    fused_lm_head.add_head(ours)
    batch = PairCollator(pad_id=0)([pair_row(pair) for pair in pairs])
    is_answer = batch.pop("completion_mask")
    labels = batch["input_ids"].masked_fill(is_answer == 0, IGNORED)
    with torch.no_grad():
        scored = ours(**batch, labels=labels, fused_lm_head=True).log_probs.sum(1)
        assert torch.allclose(train_contenders.log_probs(plain, pairs), scored, atol=1e-3)


def test_real_tokens_count_a_prompt_once_for_each_answer():
    pairs = list(train_memory.random_pairs(3, prompt_tokens=10, answer_tokens=2, seed=0))
    assert train.real_tokens(pairs) == 3 * 2 * 12


def test_the_useful_share_is_whole_for_one_rank():
    assert train.balance(ranks=1, rows=256) == 1.0
    assert 0.5 < train.balance(ranks=8, rows=1024) < 1.0


HELD = """
import hashlib, mmap, sys
path, kind = sys.argv[1:]
with open(path, "rb") as file:
    held = file.read() if kind == "read" else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
for _ in range(3):
    hashlib.sha256(held).hexdigest()
"""
"""Holds all of a file, as a copy or as pages of the file, for as long as it takes to hash it three times."""
MIB = 2**20


@pytest.mark.parametrize("is_child", [False, True], ids=["the program", "its child"])
def test_pages_of_a_mapped_file_count_as_resident_but_not_as_anonymous(tmp_path: Path, is_child: bool):
    (tmp_path / "file").write_bytes(bytes(64 * MIB))
    start = ["-c", "import subprocess, sys; subprocess.run(sys.argv[1:], check=True)", sys.executable]
    command = [sys.executable, *(start if is_child else []), "-c", HELD, str(tmp_path / "file")]
    copied, mapped = (measured([*command, kind]) for kind in ("read", "map"))
    assert copied.peak_bytes > copied.anonymous_bytes > 64 * MIB
    assert mapped.peak_bytes > 64 * MIB > 2 * mapped.anonymous_bytes > 0
    assert copied.cpu_seconds > 0


def test_a_program_that_fails_ends_the_benchmark_with_its_log():
    with pytest.raises(RuntimeError, match="no such option"):
        measured([sys.executable, "-c", "raise SystemExit('no such option')"])


def test_the_results_have_what_the_aims_are_about():
    cases = {
        case: {name: {"tokens_per_cpu_second": speed, "start_cpu_seconds": 7.0} for name, speed in speeds.items()}
        for case, speeds in {
            "mix_1": {"ours": 6.0, "loop": 4.0, "trl": 3.0},
            "mix_2": {"ours": 5.0, "loop": 4.0, "trl": 2.0},
            "shared_prompt_1": {"ours": 8.0, "loop": 4.0, "trl": 2.0},
        }.items()
    }
    memory = {
        "1,000": {"anonymous_mib": 400.0},
        "20,000": {"anonymous_mib": 430.0},
        "200,000": {"anonymous_mib": 404.0},
    }
    found = train.headline(cases, memory) | {"balance_8_ranks": train.balance(rows=256)}
    assert found.keys() >= train.AIMS.keys()
    assert (found["mix_vs_loop"], found["mix_vs_trl"], found["shared_prompt_vs_loop"]) == (1.5, 2.0, 2.0)
    assert (found["memory_ratio_200k_to_1k"], found["start_cpu_seconds"]) == (1.01, 7.0)


@pytest.mark.slow
def test_the_trainers_memory_is_measured_for_each_number_of_examples(tmp_path: Path):
    found = train_memory.by_examples(FOLDER, sizes=(16, 16_384), steps=2)
    assert found.keys() == {"16", "16,384"}
    small, large = found.values()
    assert large["peak_mib"] > large["anonymous_mib"] > 100
    # As Python objects, the ids of the larger one would take twice as much.
    assert large["anonymous_mib"] - small["anonymous_mib"] < 80
