"""Models coming and going on real vLLM: those that do not start, engines that die, two models in room for one."""

import asyncio
import contextlib
import json
import os
import shutil
import signal

import pytest
from prometheus_client import CollectorRegistry, generate_latest

from omnialign.errors import FailedPrecondition, ResourceExhausted, Unavailable
from services.inference.config import EngineConfig
from tests.services.inference.model_factory import requests, until
from tests.vllm.conftest import CACHE_BYTES, TINY_WORLD


async def results(engine, asked):
    return {result.id: result async for result in engine.generate(asked)}


def core_of(model) -> int:
    """The process of a model's engine."""
    (process,) = model.llm.engine_core.resources.engine_manager.processes
    return process.pid


async def test_an_engine_that_dies_fails_its_requests_and_the_next_request_starts_it_again(random_model):
    from services.inference.vllm.engine import open_vllm_engine

    async with open_vllm_engine(EngineConfig(cache_budget_bytes=CACHE_BYTES)) as engine:
        await engine.load(random_model)
        (key,) = engine.residency.keys
        async with engine.residency.use(key) as model:
            first = core_of(model)
        task = asyncio.create_task(results(engine, requests(random_model, ["a"] * 400, temperature=1.0)))
        await until(lambda: model.llm.get_num_unfinished_requests() > 0)
        os.kill(first, signal.SIGKILL)
        with pytest.raises(Unavailable) as caught:
            await task
        assert caught.value.reason == "ENGINE_DIED"
        assert engine.residency.keys == []
        found = await results(engine, requests(random_model, ["a"] * 4, max_new_tokens=4))
        assert [result.error for result in found.values() if result.error] == []
        async with engine.residency.use(key) as model:
            second = core_of(model)
        assert second != first
        os.kill(second, signal.SIGKILL)  # while nobody asks for anything
        await until(lambda: model.is_dead)
        assert len(await results(engine, requests(random_model, ["a"], max_new_tokens=4))) == 1


async def test_a_prompt_that_ends_its_engine_each_time_fails_alone(random_model, monkeypatch):
    from services.inference.vllm.engine import open_vllm_engine
    from services.inference.vllm.process import VllmModel

    real, deadly = VllmModel.generate, []

    def generate(model, prompt, params, request_id):
        if prompt["prompt_token_ids"] == deadly:
            os.kill(core_of(model), signal.SIGKILL)
        return real(model, prompt, params, request_id)

    monkeypatch.setattr(VllmModel, "generate", generate)
    asked = requests(random_model, ["a", "b", "deadly", "c"], max_new_tokens=4)
    async with open_vllm_engine(EngineConfig(cache_budget_bytes=CACHE_BYTES)) as engine:
        deadly += await engine.prompt_ids(asked[2])
        found: dict[str, object] = {}
        for _ in range(6):  # as a job asks again for what it has no answer to
            with contextlib.suppress(Unavailable):
                async for result in engine.generate([r for r in asked if r.id not in found]):
                    found[result.id] = result
    refused = found.pop(asked[2].id).error
    assert refused.reason == "REQUEST_KILLS_ENGINE"
    assert [result.error for result in found.values()] == [None] * 3


async def test_two_models_take_turns_in_room_for_one(random_model):
    from services.inference.vllm.engine import open_vllm_engine

    registry = CollectorRegistry()
    config = EngineConfig(
        cache_budget_bytes=CACHE_BYTES, model_budget_bytes=CACHE_BYTES - (1 << 20), tenure_seconds=0.0
    )
    async with open_vllm_engine(config, metrics=registry) as engine:
        asked = requests(random_model, ["a"] * 3, max_new_tokens=4) + requests(TINY_WORLD, ["b"], max_new_tokens=4)
        asked = [type(r)(str(i), r.model, r.turns, r.sampling) for i, r in enumerate(asked)]
        found = await results(engine, asked)
        assert [result.error for result in found.values() if result.error] == []
        assert len(engine.residency.keys) == 1
        assert "omnialign_engine_models_resident 1.0" in generate_latest(registry).decode()
        (key,) = engine.residency.keys
        async with engine.residency.use(key):
            with pytest.raises(FailedPrecondition) as caught:
                await engine.unload(key.model)
            assert caught.value.reason == "MODEL_IN_USE"
        await engine.unload(key.model)
        assert engine.residency.keys == []


async def test_a_model_that_cannot_be_had_says_why(random_model, tmp_path, folder_of):
    from services.inference.vllm.engine import open_vllm_engine

    unknown = tmp_path / "unknown"
    shutil.copytree(folder_of(random_model), unknown)
    config = json.loads((unknown / "config.json").read_text())
    (unknown / "config.json").write_text(json.dumps(config | {"num_attention_heads": 3}))
    async with open_vllm_engine(EngineConfig(cache_budget_bytes=CACHE_BYTES)) as engine:
        with pytest.raises(FailedPrecondition) as refused:
            await engine.load(f"file://{unknown}")
        assert refused.value.reason == "MODEL_LOAD_FAILED"
        assert "vLLM says" in refused.value.message
    async with open_vllm_engine(EngineConfig(model_budget_bytes=1000)) as engine:
        with pytest.raises(ResourceExhausted) as large:
            await engine.load(random_model)
        assert large.value.reason == "MODEL_TOO_LARGE"
