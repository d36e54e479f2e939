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

from omnialign.errors import FailedPrecondition
from omnialign.v1 import content_pb2, generation_pb2
from services.inference.config import EngineConfig
from services.inference.engine import EngineRequest
from services.inference.vllm_prompts import media_of
from tests.chaos.harness import REPOSITORY
from tests.model_families import FAMILIES, Family
from tests.vllm.cluster import PYTHON
from tests.vllm.conftest import CACHE_BYTES
from tests.vllm.trainer_side import ANSWER, conversations, medium

TOLERANCE = 2e-3
"""Most that two log-probabilities of a token may differ; 1e-5 was seen."""
RESULTS = REPOSITORY / "out" / "families"
REFUSED = {"llava", "llava_next", "llava_onevision", "qwen2_5_omni", "qwen3_omni_moe"}
"""Folders that vLLM 0.32 does not load: it looks for the towers of LLaVA under other names than transformers 5
saves them by, and it knows the thinkers of Qwen-Omni as a part of the whole model alone."""
DIFFERENT = {"qwen2_5_vl", "qwen3_vl"}
"""Families whose answers after a video have another probability under vLLM 0.32 than under transformers 5.23, though
their ids are the same. Qwen2.5-VL: the text goes on after the highest position of the video in the one, and after its
height or width in the other."""
LONG_SOUNDS = {"qwen2_audio"}
"""vLLM 0.32 takes sounds of 3000 frames alone, as the released models have them; the tiny one has 500."""


async def trainer_side(family: Family, folder: Path) -> list[dict[str, list[float]]]:
    """Builds a model in the trainer's environment; its ids of each conversation and log-probabilities of the answer."""
    command = [str(PYTHON), "-m", "tests.vllm.trainer_side", family.name, str(folder)]
    done = await asyncio.to_thread(
        subprocess.run, command, cwd=REPOSITORY, check=True, stdout=subprocess.PIPE, timeout=240
    )
    found: list[dict[str, list[float]]] = json.loads(done.stdout)
    return found


def knows(family: Family) -> bool:
    return family.vllm and family.name not in LONG_SOUNDS


def config_of(folder: Path) -> EngineConfig:
    return EngineConfig(cache_budget_bytes=CACHE_BYTES, feature_cache=folder / "features")


@pytest.mark.parametrize("family", [f for f in FAMILIES.values() if knows(f)], ids=lambda family: family.name)
async def test_a_family_reads_on_vllm_what_the_trainer_reads(family: Family, tmp_path: Path) -> None:
    from services.inference.vllm_engine import open_vllm_engine

    folder = tmp_path / family.name
    wanted = await trainer_side(family, folder)
    model, sampling = f"file://{folder}", generation_pb2.SamplingParams(max_new_tokens=8)
    requests = [EngineRequest(str(i), model, turns, sampling) for i, turns in enumerate(conversations(family))]
    async with open_vllm_engine(config_of(tmp_path)) as engine:
        if family.name in REFUSED:
            with pytest.raises(FailedPrecondition, match="vLLM says") as caught:
                await engine.load(model)
            assert caught.value.reason == "MODEL_LOAD_FAILED"
            return
        for request, theirs in zip(requests, wanted, strict=True):
            assert await engine.prompt_ids(request) == theirs["ids"]
            found = await engine.log_probabilities(request, ANSWER)
            alike = np.allclose(found, theirs["log_probabilities"], rtol=0, atol=TOLERANCE)
            assert alike != (family.name in DIFFERENT and has_video(request)), (request.id, found, theirs)
        results = {result.id: result async for result in engine.generate(requests)}
        again = {result.id: result async for result in engine.generate(requests)}
    assert [result.error for result in results.values() if result.error] == []
    assert {name: result.pieces for name, result in results.items()} == {n: r.pieces for n, r in again.items()}
    record(family)


async def test_a_medium_of_a_prompt_that_was_too_long_is_read_in_the_next(tmp_path: Path) -> None:
    """vLLM takes what it has rendered for sent, though the prompt was never run."""
    from omnialign.modeling.messages import Turn
    from services.inference.vllm_engine import open_vllm_engine

    folder = FAMILIES["qwen2_5_vl"].build(tmp_path / "model")
    picture, sampling = medium("image"), generation_pb2.SamplingParams(max_new_tokens=4)
    async with open_vllm_engine(config_of(tmp_path)) as engine:
        for text, reason in (("word " * 5000, "PROMPT_TOO_LONG"), ("What is it?", "")):
            turns = (Turn("user", (picture, text)),)
            (result,) = [r async for r in engine.generate([EngineRequest("0", f"file://{folder}", turns, sampling)])]
            assert (result.error.reason if result.error else "") == reason


def has_video(request: EngineRequest) -> bool:
    return any(piece.modality == content_pb2.MODALITY_VIDEO for piece in media_of(request.turns))


def record(family: Family) -> None:
    """Writes what was shown: media are read as the trainer reads them, and answers are text."""
    RESULTS.mkdir(parents=True, exist_ok=True)
    reads = [name for name in family.reads if not (name == "video" and family.name in DIFFERENT)]
    shown = {"family": family.name, "engine": "vllm", "reads": reads, "writes": [], "passed": True}
    (RESULTS / f"{family.name}.vllm.json").write_text(json.dumps(shown) + "\n")
