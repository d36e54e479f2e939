"""Every family that vLLM knows: its prompts have the ids that the trainer sees, and its answers the same probability.

The models are random and tiny, of the real classes; both sides compute in float32, in another order of sums. The
trainer's side runs in the trainer's environment, whose `transformers` is another version than vLLM's. What holds is
written to `out/families`, where the table of families is made from.
"""

import asyncio
import json
import subprocess
from pathlib import Path

import numpy as np
import pytest

from omnialign.v1 import generation_pb2
from services.inference.config import EngineConfig
from services.inference.engine import EngineRequest
from tests.model_factory.families import FAMILIES
from tests.model_factory.family import Family
from tests.processes import REPOSITORY
from tests.vllm.cluster import PYTHON
from tests.vllm.conftest import CACHE_BYTES
from tests.vllm.shown import record
from tests.vllm.trainer_side import ANSWER, conversations, medium

TOLERANCE = 2e-3
"""Most that two log-probabilities of a token may differ; 1e-5 was seen."""


async def trainer_side(family: Family, folder: Path) -> list[dict[str, list[float]]]:
    """Builds a model in the trainer's environment; its ids of each conversation and log-probabilities of the answer."""
    command = [str(PYTHON), "-m", "tests.vllm.trainer_side", family.name, str(folder)]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, timeout=240
    )
    found: list[dict[str, list[float]]] = json.loads(done.stdout)
    return found


def config_of(folder: Path) -> EngineConfig:
    return EngineConfig(cache_budget_bytes=CACHE_BYTES, feature_cache=folder / "features")


@pytest.mark.parametrize("family", [f for f in FAMILIES.values() if f.vllm], ids=lambda family: family.name)
async def test_a_family_reads_on_vllm_what_the_trainer_reads(family: Family, tmp_path: Path) -> None:
    from services.inference.vllm.engine import open_vllm_engine

    folder = tmp_path / family.name
    wanted = await trainer_side(family, folder)
    model, sampling = f"file://{folder}", generation_pb2.SamplingParams(max_new_tokens=8)
    requests = [EngineRequest(str(i), model, turns, sampling) for i, turns in enumerate(conversations(family))]
    async with open_vllm_engine(config_of(tmp_path)) as engine:
        for request, theirs in zip(requests, wanted, strict=True):
            assert await engine.prompt_ids(request) == theirs["ids"]
            found = await engine.log_probabilities(request, ANSWER)
            np.testing.assert_allclose(found, theirs["log_probabilities"], rtol=0, atol=TOLERANCE)
        results = {result.id: result async for result in engine.generate(requests)}
        again = {result.id: result async for result in engine.generate(requests)}
    assert [result.error for result in results.values() if result.error] == []
    assert {name: result.pieces for name, result in results.items()} == {n: r.pieces for n, r in again.items()}
    record(family.name, reads=family.reads)


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl"])
async def test_what_stands_for_media_is_never_written(name: str, tmp_path: Path) -> None:
    """A random model of a few hundred tokens would write each of them sooner or later."""
    from omnialign.modeling.adapters import load_adapter
    from omnialign.modeling.inputs import Turn
    from services.inference.vllm.engine import open_vllm_engine

    folder = FAMILIES[name].build(tmp_path / "model")
    turns = (Turn("user", (medium("image"), "What is it?")),)
    sampling = generation_pb2.SamplingParams(temperature=1.0, max_new_tokens=300)
    requests = [
        EngineRequest(str(seed), f"file://{folder}", turns, sampling, seed=seed, return_tokens=True)
        for seed in range(8)
    ]
    async with open_vllm_engine(config_of(tmp_path)) as engine:
        drawn = [result.tokens async for result in engine.generate(requests)]
    ids = {number for tokens in drawn if tokens for number in tokens.ids}
    assert len(ids) > 100
    assert not ids & set(load_adapter(folder).unwritable_ids)


async def test_a_medium_of_a_prompt_that_was_too_long_is_read_in_the_next(tmp_path: Path) -> None:
    """vLLM takes what it has rendered for sent, though the prompt was never run."""
    from omnialign.modeling.inputs import Turn
    from services.inference.vllm.engine import open_vllm_engine

    folder = FAMILIES["qwen2_5_vl"].build(tmp_path / "model")
    picture, sampling = medium("image"), generation_pb2.SamplingParams(max_new_tokens=4)
    async with open_vllm_engine(config_of(tmp_path)) as engine:
        for text, reason in (("word " * 5000, "PROMPT_TOO_LONG"), ("What is it?", "")):
            turns = (Turn("user", (picture, text)),)
            (result,) = [r async for r in engine.generate([EngineRequest("0", f"file://{folder}", turns, sampling)])]
            assert (result.error.reason if result.error else "") == reason
