"""Real runs that train a LoRA: resumed from small checkpoints, and gone on from with the start as the reference."""

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.training import test_single_runs
from tests.training.test_resume import tiny_model  # noqa: F401
from tests.training.test_single_runs import run
from training.launch import EXIT_FAILED, read_failure

RATE = 0.05
"""Makes a LoRA of four steps differ clearly from its base."""


def settle(folder: Path, base: Path, *, method: str, sections: dict[str, object], **hyperparameters: object) -> None:
    """A run as `test_single_runs.settle` makes it, with `sections` in its spec."""
    test_single_runs.settle(folder, base, method=method, **hyperparameters)
    path = folder / "job.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **sections}))


def rows(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "progress.jsonl").read_text().splitlines()]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model" / "adapter_model.safetensors")


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_lora_is_resumed_and_is_the_reference_of_a_run_that_goes_on_from_it(
    tmp_path: Path,
    tiny_model: Path,  # noqa: F811
):
    whole, resumed, further = tmp_path / "whole", tmp_path / "resumed", tmp_path / "further"
    steps = {"max_steps": 4, "checkpoint_every_steps": 2, "learning_rate": RATE}
    settle(whole, tiny_model, method="sft", sections={"lora": {"rank": 4}}, **steps)
    assert run(whole, "sft") == 0
    names = {path.name for path in (whole / "model").iterdir()}
    assert names == {"adapter_config.json", "adapter_model.safetensors"}
    # A checkpoint has nothing of the base, whose weights alone are larger than all of it.
    kept = [path for path in (whole / "checkpoints" / "step-00000002").rglob("*") if path.is_file()]
    largest = max(path.stat().st_size for path in kept)
    assert largest < (tiny_model / "model.safetensors").stat().st_size

    settle(resumed, tiny_model, method="sft", sections={"lora": {"rank": 4}}, **steps)
    shutil.copytree(whole / "checkpoints" / "step-00000002", resumed / "checkpoints" / "step-00000002")
    assert run(resumed, "sft") == 0
    assert [row["step"] for row in rows(resumed)] == [3, 4]
    found, wanted = weights(resumed), weights(whole)
    assert all(torch.allclose(found[name], wanted[name], atol=1e-6) for name in wanted)

    start = {"lora": {}, "initial_lora_dir": str(whole / "model")}
    settle(
        further,
        tiny_model,
        method="dpo",
        sections=start,
        max_steps=2,
        sft_weight=0.0,
        no_warmup=True,
        learning_rate=RATE,
    )
    assert run(further) == 0
    first, second = rows(further)
    # Against the bare base, the margins of a LoRA that has learnt would not be zero.
    assert first["loss"] == pytest.approx(math.log(2), abs=1e-5)
    assert first["rewards/chosen"] == pytest.approx(0, abs=1e-4)
    assert abs(second["rewards/chosen"]) > 1e-2
    assert all(not torch.equal(weights(further)[name], weights(whole)[name]) for name in wanted)

    settle(further, tiny_model, method="dpo", sections={**start, "lora": {"rank": 8}})
    shutil.rmtree(further / "model")
    assert run(further) == EXIT_FAILED
    failure = read_failure(further)
    assert failure is not None and (failure.reason, failure.metadata["has"]) == ("LORA_DIFFERS", "4")
