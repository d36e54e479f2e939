"""Policies on real vLLM: LoRAs come and go in the running engine of their base."""

import pytest
from prometheus_client import CollectorRegistry

from services.inference.config import EngineConfig
from services.inference.factory import RoutingEngine
from services.inference.metrics import PolicyMetrics
from services.inference.models.resolver import ModelResolver
from services.inference.policies.delivery import take
from services.inference.policies.store import PolicyStore
from services.inference.policies.weights import complete
from tests.services.inference import model_factory
from tests.services.inference.model_factory import requests
from tests.vllm.conftest import CACHE_BYTES

POLICY = "projects/p/policies/run"


async def written(engine, model):
    found = {r.id: r async for r in engine.generate(requests(model, ["what is red", "go on"], max_new_tokens=20))}
    return found["0"].info.model, [found[name].pieces for name in "01"]


@pytest.mark.timeout(900)  # engines that start again
async def test_each_lora_of_a_policy_is_sampled_from_without_another_start_of_the_engine(random_model, tmp_path):
    from services.inference.vllm.engine import open_vllm_engine

    registry = CollectorRegistry()
    async with open_vllm_engine(EngineConfig(cache_budget_bytes=CACHE_BYTES), metrics=registry) as vllm:
        store = PolicyStore(tmp_path / "policies", vllm, ModelResolver(None), PolicyMetrics(CollectorRegistry()))
        engine = RoutingEngine(vllm, vllm, store)
        policy, answers = await store.open(POLICY, random_model), []
        for version in (1, 2):
            lora = model_factory.random_lora(tmp_path / f"lora{version}", random_model, seed=version)
            with store.new_folder() as folder:
                entries = take(lora, folder, roots=(tmp_path,), max_bytes=1 << 30)
                digest = complete(folder, entries, policy.base, name=POLICY)
                await store.replace(policy, version, folder=folder, digest=digest)
            name, found = await written(engine, POLICY)
            assert name == f"{POLICY}/versions/{version}"
            assert found == (await written(vllm, lora))[1]
            answers.append(found)
        assert answers[0] != answers[1]
        assert registry.get_sample_value("omnialign_engine_model_load_seconds_count") == 1
        await store.aclose()
