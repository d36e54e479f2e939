"""Whole runs of real architectures on two processes: they learn, go on after a stop, and their models are served."""

import math
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from omnialign.modeling.inputs import Turn
from omnialign.v1 import generation_pb2
from services.inference.config import EngineConfig
from services.inference.engine import EngineRequest
from services.inference.transformers.engine import open_transformers_engine
from tests.processes import kill_when
from tests.training.forked_ranks import run_ranks
from tests.training.multimodal import TRAINED, losses, medium, prepare, question, start
from training.samples import Sample

STEPS = 6
SETTINGS = {"max_steps": STEPS, "learning_rate": 3e-3, "checkpoint_every_steps": 2}


def samples(name: str, method: str) -> list[Sample]:
    """Questions about one medium, about none, and about all that the family reads."""
    family = TRAINED[name]
    media = [medium(kind, seed=2) for kind in family.reads]
    asked = [question("What is it?", piece) for piece in media] + [question("Who?"), question(*media, "Compare.")]
    drawn = [medium(kind, seed=2) for kind in family.writes]
    answers = [(f"It is number {number}.", *drawn) for number in range(len(asked))]
    if method == "sft":
        return [Sample(turns, (answer,)) for turns, answer in zip(asked, answers, strict=True)]
    return [Sample(turns, (answer, ("No.",))) for turns, answer in zip(asked, answers, strict=True)]


async def answer_of(folder: Path, turns: tuple[Turn, ...]) -> generation_pb2.GenerationInfo:
    """What the engine says of an answer of the model in a folder."""
    sampling = generation_pb2.SamplingParams(max_new_tokens=4)
    async with open_transformers_engine(EngineConfig(threads=1)) as engine:
        request = EngineRequest("r", f"file://{folder}", turns, sampling)
        (result,) = [result async for result in engine.generate([request])]
    assert result.error is None or result.error.reason == "ANSWER_MALFORMED"
    return result.info


@pytest.mark.families
@pytest.mark.timeout(400)
@pytest.mark.parametrize(
    ("name", "method"),
    [
        *((name, method) for name in ("qwen2_5_vl", "qwen2_audio", "qwen2_5_omni") for method in ("sft", "dpo")),
        ("janus", "sft"),
        ("chameleon", "dpo"),
        ("anygpt", "sft"),
    ],
)
async def test_a_run_learns_and_its_model_is_served(tmp_path: Path, name: str, method: str):
    base = TRAINED[name].build(tmp_path / "base")
    made = samples(name, method)
    run = tmp_path / "run"
    prepare(run, base=base, method=method, samples=made, **SETTINGS)
    assert run_ranks(run, method, num_processes=2) == [0, 0]
    found = losses(run)
    assert list(found) == list(range(1, STEPS + 1))
    assert all(math.isfinite(loss) for loss in found.values())
    assert found[STEPS] < found[1]
    assert {path.name for path in (run / "model").iterdir()} >= {path.name for path in base.iterdir()}
    assert_learnt(base, run / "model")
    info = await answer_of(run / "model", made[-1].turns)
    assert info.prompt_tokens > 0


def assert_learnt(base: Path, trained: Path) -> None:
    """Towers and codecs are as they were, the language model is not, and every name is the base model's."""
    before, after = (load_file(folder / "model.safetensors") for folder in (base, trained))
    assert before.keys() == after.keys()
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    fixed = ("vision_tower", "visual.", "audio_tower", "vqmodel", "vision_model")
    assert not [name for name in changed if any(part in name for part in fixed)]
    assert any("layers" in name for name in changed)


@pytest.mark.families
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("name", "method"), [("qwen2_5_omni", "sft"), ("qwen2_audio", "dpo")])
def test_a_stopped_run_goes_on_with_the_same_losses(tmp_path: Path, name: str, method: str):
    base = TRAINED[name].build(tmp_path / "base")
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    for folder in (whole, broken):
        command = prepare(folder, base=base, method=method, samples=samples(name, method), **SETTINGS)
    assert run_ranks(whole, method, num_processes=2) == [0, 0]
    run = start(command)
    kill_when(run, lambda: len(losses(broken)) >= 3)
    assert not (broken / "model").exists()
    # What the cache lost is made again from the bytes that the run keeps.
    for kept in (broken / "cache" / "features").rglob("*.safetensors"):
        kept.unlink()
    assert start(command).wait() == 0
    assert losses(broken) == pytest.approx(losses(whole), abs=1e-5)
