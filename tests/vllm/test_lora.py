"""LoRAs on real vLLM: one engine for a base and its LoRAs, which answer as the merged models do."""

import asyncio
import json
import shutil

import pytest
import pytest_asyncio
import torch
from prometheus_client import CollectorRegistry

from omnialign.errors import InvalidArgument
from services.inference.config import EngineConfig
from services.inference.transformers.engine import open_transformers_engine
from tests.services.inference import model_factory
from tests.services.inference.model_factory import requests
from tests.vllm.conftest import CACHE_BYTES

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(900)]  # engines that start again
PROMPTS = ["what is red", "x" * 60, "a circle on the left of a square"]
ANSWER = ["a circle that is red"]


@pytest.fixture(scope="module")
def loras(random_model, tmp_path_factory):
    """Two LoRAs of the random model, of different ranks, each with the model that it is merged into."""
    folder = tmp_path_factory.mktemp("loras")
    found = {}
    for index, rank in enumerate((4, 8)):
        lora = model_factory.random_lora(folder / f"lora{index}", random_model, seed=index, rank=rank)
        found[lora] = model_factory.merged_model(folder / f"merged{index}", random_model, lora)
    return found


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def serving():
    """An engine, and the metrics by which its starts are counted."""
    from services.inference.vllm.engine import open_vllm_engine

    registry = CollectorRegistry()
    async with open_vllm_engine(EngineConfig(cache_budget_bytes=CACHE_BYTES), metrics=registry) as engine:
        yield engine, lambda: registry.get_sample_value("omnialign_engine_model_load_seconds_count")


async def results(engine, asked):
    found = {result.id: result async for result in engine.generate(asked)}
    assert [result.error for result in found.values() if result.error] == []
    return found


async def written(engine, model):
    asked = requests(model, PROMPTS, max_new_tokens=30)
    found = await results(engine, asked)
    assert {result.info.model for result in found.values()} == {model}
    return [found[str(i)].pieces for i in range(len(PROMPTS))]


async def scores(engine, model):
    return [await engine.log_probabilities(request, ANSWER) for request in requests(model, PROMPTS)]


async def scored_by_transformers(engine, model):
    """The same by the module that the transformers engine has in memory."""
    (key,) = [key for key in engine.residency.keys if key.model == model]
    found = []
    async with engine.residency.use(key) as loaded:
        for request in requests(model, PROMPTS):
            ids = loaded.adapter.encode(request.turns, request.policy).ids
            answer = loaded.adapter.encode_answer(ANSWER, request.policy)
            with torch.no_grad():
                logits = loaded.module(torch.tensor([[*ids, *answer]])).logits[0, len(ids) - 1 : -1]
            found.append(logits.log_softmax(-1).gather(1, torch.tensor(answer)[:, None])[:, 0].tolist())
    return found


async def test_a_base_and_its_loras_share_one_engine_and_answer_as_the_merged_models(serving, random_model, loras):
    engine, starts = serving
    await engine.load(random_model)
    names = [*loras, random_model]
    together = await asyncio.gather(*(written(engine, name) for name in names))
    scored = [await scores(engine, name) for name in names]
    assert starts() == 2  # the base alone, and with its LoRAs
    assert [key.model for key in engine.residency.keys] == [random_model]
    async with open_transformers_engine(EngineConfig(threads=1)) as other:
        for name, answers, log_probabilities in zip(names, together, scored, strict=True):
            merged = loras.get(name, name)
            assert answers == await written(other, merged)
            wanted = await scored_by_transformers(other, merged)
            assert log_probabilities == [pytest.approx(row, abs=1e-4) for row in wanted]
    assert len({tuple(map(tuple, answers)) for answers in together}) == 3
    (request,) = requests(next(iter(loras)), ["a"])
    (of_base,) = requests(random_model, ["a"])
    assert await engine.prompt_ids(request) == await engine.prompt_ids(of_base)


async def test_a_cached_prefix_is_not_taken_for_another_models(serving, random_model, loras):
    engine, _ = serving
    first = [await written(engine, name) for name in (random_model, *loras)]
    assert [await written(engine, name) for name in (random_model, *loras)] == first


async def test_more_loras_than_an_engine_has_room_for_and_a_higher_rank_start_it_anew(
    serving, random_model, loras, tmp_path
):
    engine, starts = serving
    await engine.load(next(iter(loras)))
    started, before = starts(), await written(engine, random_model)
    others = [model_factory.random_lora(tmp_path / str(i), random_model, seed=i) for i in range(5, 8)]
    found = [await written(engine, name) for name in others]
    together = await asyncio.gather(*(written(engine, name) for name in (*others, random_model)))
    assert together == [*found, before]
    assert starts() == started + 1
    higher = model_factory.random_lora(tmp_path / "higher", random_model, seed=9, rank=20)
    merged = model_factory.merged_model(tmp_path / "merged", random_model, higher)
    async with open_transformers_engine(EngineConfig(threads=1)) as other:
        assert await written(engine, higher) == await written(other, merged)
    assert starts() == started + 2
    assert await written(engine, random_model) == before


async def test_a_lora_that_vllm_cannot_place_is_refused_and_harms_no_other(serving, random_model, loras, tmp_path):
    engine, starts = serving
    lora = next(iter(loras))
    await engine.load(lora)
    started = starts()
    deeper = model_factory.random_lora(tmp_path / "deeper", random_model, layers=3)
    huge = model_factory.random_lora(tmp_path / "huge", random_model, rank=600)
    broken = model_factory.random_lora(tmp_path / "broken", random_model)
    (tmp_path / "broken" / "adapter_model.safetensors").write_bytes(b"nonsense")
    family = tmp_path / "family"
    shutil.copytree(random_model.removeprefix("file://"), family)
    config = json.loads((family / "config.json").read_text())
    (family / "config.json").write_text(json.dumps(config | {"architectures": ["GPT2LMHeadModel"]}))
    without = model_factory.random_lora(tmp_path / "without", f"file://{family}")
    for name in (deeper, huge, broken, without):
        with pytest.raises(InvalidArgument) as caught:
            await engine.load(name)
        assert caught.value.reason == "LORA_UNSUPPORTED"
    assert starts() == started
    assert await written(engine, lora)
