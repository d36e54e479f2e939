"""Real runs: two ranks under torchrun with ZeRO-2."""

import json
import os
import random
import subprocess
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from tests.processes import kill_when
from tests.training.forked_ranks import run_ranks
from training import launch, methods, source
from training.example_file import write_examples
from training.examples import Example
from training.launch import EXIT_FAILED, read_failure
from training.spec_file import parse_spec

STEPS = 8
"""Two epochs."""
EVERY = 3


@pytest.fixture
def tiny_model(model_dir: Path) -> Path:
    from transformers import LlamaConfig, LlamaForCausalLM

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=128, hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=64,
        tie_word_embeddings=True, pad_token_id=0, bos_token_id=1, eos_token_id=2,
    )  # fmt: skip
    LlamaForCausalLM(config).save_pretrained(model_dir)
    return model_dir


def prepare(folder: Path, *, base: Path, method: str, zero_stage: int, **sections: object) -> list[str]:
    """A run with its examples in place; returns its command."""
    weight = 0.0 if "sft_weight" in methods.METHODS[method].lacks else 0.5
    document = {
        "job": "projects/default/trainingJobs/j",
        "dataset": "projects/default/datasets/d",
        "base_model_dir": str(base),
        "output_dir": str(folder),
        "cache_dir": str(folder / "cache"),
        "hyperparameters": {"max_steps": STEPS, "batch_size": 4, "checkpoint_every_steps": EVERY, "sft_weight": weight},
        "distribution": {"num_processes": 2, "zero_stage": zero_stage, "precision": "fp32"},
        **sections,
    }
    spec = parse_spec(document, method=method)
    draw = random.Random(0)

    def ids(longest: int) -> list[int]:
        return [draw.randrange(6, 100) for _ in range(draw.randint(3, longest))]

    # Of two ranks, one has no row in the last step.
    made = [
        Example(ids(12), [[*ids(20), 2] for _ in range(2)], value=float(at % 3 == 0), teacher_prompt=ids(20))
        for at in range(13)
    ]
    length = methods.complete(spec, num_processes=2).max_length
    write_examples(source.cache_path(spec, max_length=length), made)
    (folder / "job.yaml").write_text(yaml.safe_dump(document))
    return launch.command(method, spec_path=folder / "job.yaml", num_processes=2)


def start(command: list[str]) -> subprocess.Popen[bytes]:
    environment = launch.environment(os.environ, num_processes=2, num_cpus=2) | {"PYTHONPATH": str(Path.cwd())}
    return subprocess.Popen(command, env=environment, start_new_session=True)


def losses(folder: Path) -> dict[int, float]:
    """The loss by step; a later attempt's word on a step replaces the earlier one's."""
    lines = (folder / "progress.jsonl").read_text().splitlines() if (folder / "progress.jsonl").exists() else []
    return {row["step"]: row["loss"] for row in map(json.loads, lines)}


@pytest.mark.slow
@pytest.mark.chaos
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("method", "zero_stage", "sections"),
    [
        ("dpo", 2, {"dpo": {"loss": "mpo"}}),
        ("kto", 2, {}),
        ("sdpo", 2, {"sdpo": {"teacher": "ema", "ema_decay": 0.5}}),
        ("sft", 3, {"lora": {"rank": 4}}),
    ],
)
def test_a_run_that_is_killed_in_its_second_epoch_goes_on_with_the_same_losses(
    tmp_path: Path, tiny_model: Path, method: str, zero_stage: int, sections: dict[str, object]
):
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert start(prepare(whole, base=tiny_model, method=method, zero_stage=zero_stage, **sections)).wait() == 0
    command = prepare(broken, base=tiny_model, method=method, zero_stage=zero_stage, **sections)
    run = start(command)
    kill_when(run, lambda: len(losses(broken)) > 2 * EVERY)  # well within the second epoch
    before = losses(broken)
    assert not (broken / "model").exists()
    assert start(command).wait() == 0
    assert losses(broken) == pytest.approx(losses(whole), abs=1e-5)
    assert list(losses(whole)) == list(range(1, STEPS + 1))
    assert before.items() <= losses(whole).items()
    names = {path.name for path in (broken / "model").iterdir()}
    has_lora = {"adapter_config.json", "adapter_model.safetensors"}
    assert (
        has_lora if "lora" in sections else {"model.safetensors", "tokenizer.json", "codecs.json", "config.json"}
    ) <= names
    (weights,) = (name for name in names if name.endswith(".safetensors"))
    found, wanted = load_file(broken / "model" / weights), load_file(whole / "model" / weights)
    assert all(torch.allclose(found[name], wanted[name], atol=1e-6) for name in wanted)
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pkl"))]


@pytest.mark.timeout(200)
def test_a_loss_that_is_no_number_ends_the_run_with_its_reason(tmp_path: Path, tiny_model: Path):
    weights = load_file(tiny_model / "model.safetensors")
    weights["model.norm.weight"].fill_(float("nan"))
    save_file(weights, tiny_model / "model.safetensors", metadata={"format": "pt"})
    run = tmp_path / "run"
    prepare(run, base=tiny_model, method="sft", zero_stage=0)
    assert EXIT_FAILED in run_ranks(run, "sft", num_processes=2)
    failure = read_failure(run)
    assert failure is not None and failure.reason == "LOSS_NOT_FINITE"
    assert "at step 1: lower learning_rate or check the data" in failure.message
    assert not (run / "model").exists()
