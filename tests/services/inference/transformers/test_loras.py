"""LoRAs named as models: found with their base, merged into it, and refused where they cannot be."""

import asyncio

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from omnialign.errors import NotFound, OmnialignError
from omnialign.v1 import model_pb2
from services.inference.config import EngineConfig
from services.inference.models.resolver import ModelFiles, ModelResolver
from services.inference.transformers.engine import open_transformers_engine
from tests.services.inference import model_factory

PROMPTS = ["what is red", "a", "go on with this"]


class Registry:
    """Knows versions by the folders that they lie in."""

    def __init__(self, uris):
        self.uris = uris

    async def get_model_version(self, name):
        if name not in self.uris:
            raise NotFound("No such version.", reason="MODEL_VERSION_NOT_FOUND")
        return model_pb2.ModelVersion(name=name, uri=self.uris[name])


async def refusal(resolver, name):
    with pytest.raises(OmnialignError) as caught:
        await resolver.find(name)
    return caught.value.reason


async def answers(engine, model, **options):
    asked = model_factory.requests(model, PROMPTS, max_new_tokens=20)
    found = {result.id: result async for result in engine.generate(asked, **options)}
    assert [result.error for result in found.values() if result.error] == []
    assert {result.info.model for result in found.values()} == {model}
    return [found[str(i)].pieces for i in range(len(PROMPTS))]


async def test_a_lora_is_found_with_its_base(model, folder_of, tmp_path):
    lora = model_factory.random_lora(tmp_path / "lora", str(folder_of(model)), rank=4, rank_pattern={"q_proj": 4})
    assert await ModelResolver(None).find(lora) == ModelFiles(model, folder_of(model), tmp_path / "lora", 4)
    assert await ModelResolver(None).find(model) == ModelFiles(model, folder_of(model))
    assert await ModelResolver(None).folder(lora) == folder_of(model)


async def test_a_registered_lora_has_a_registered_base_of_its_own_project(model, tmp_path):
    base, lora = "projects/p/models/base/versions/1", "projects/p/models/lora/versions/1"
    good = model_factory.random_lora(tmp_path / "good", model, base_model_name_or_path=base)
    places = {base: model, lora: good, "projects/q/models/lora/versions/1": good}
    places["projects/p/models/outside/versions/1"] = model_factory.random_lora(tmp_path / "outside", model)
    resolver = ModelResolver(Registry(places))
    assert (await resolver.find(lora)).base == base
    assert await refusal(resolver, "projects/q/models/lora/versions/1") == "BASE_MODEL_NOT_IN_PROJECT"
    assert await refusal(resolver, "projects/p/models/outside/versions/1") == "BASE_MODEL_NOT_IN_PROJECT"
    assert (await resolver.find(good)).base == base  # who may name folders may name any model


async def test_the_base_of_a_lora_is_read_from_the_allowed_folders_only(model, tmp_path):
    lora = model_factory.random_lora(tmp_path / "lora", model)
    assert await refusal(ModelResolver(None, roots=[tmp_path]), lora) == "MODEL_NOT_ALLOWED"


async def test_a_lora_without_a_usable_base_is_refused(model, tmp_path):
    lora = model_factory.random_lora(tmp_path / "lora", model)
    resolver = ModelResolver(None)
    second = model_factory.random_lora(tmp_path / "second", model, base_model_name_or_path=lora)
    assert await refusal(resolver, second) == "LORA_OF_LORA"
    lost = model_factory.random_lora(tmp_path / "lost", model, base_model_name_or_path="/no/such/folder")
    assert await refusal(resolver, lost) == "MODEL_NOT_FOUND"
    hub = model_factory.random_lora(tmp_path / "hub", model, base_model_name_or_path="org/name")
    assert await refusal(resolver, hub) == "BASE_MODEL_INVALID"


async def test_a_lora_in_a_pickle_is_refused(model, tmp_path):
    lora = model_factory.random_lora(tmp_path / "lora", model)
    (tmp_path / "lora" / "adapter_model.bin").write_bytes(b"cos\nsystem\n")
    assert await refusal(ModelResolver(None), lora) == "MODEL_HAS_PICKLE"


async def test_a_lora_that_peft_saved_runs_as_the_model_that_peft_merges(engine, model, folder_of, tmp_path):
    torch.manual_seed(3)
    base = AutoModelForCausalLM.from_pretrained(folder_of(model))
    config = LoraConfig(r=4, lora_alpha=16, target_modules=["q_proj", "up_proj"], init_lora_weights=False)
    get_peft_model(base, config).save_pretrained(tmp_path / "lora")
    lora = f"file://{tmp_path / 'lora'}"
    found = await answers(engine, lora)
    assert found != await answers(engine, model)
    base = AutoModelForCausalLM.from_pretrained(folder_of(model))
    merged = PeftModel.from_pretrained(base, tmp_path / "lora").merge_and_unload()
    ids = torch.tensor([[5, 40, 41, 42, 300, 7]])
    (key,) = [key for key in engine.residency.keys if key.model == lora]
    async with engine.residency.use(key) as loaded:
        torch.testing.assert_close(loaded.module(ids).logits, merged(ids).logits)


async def test_a_lora_answers_as_the_merged_model_and_leaves_its_base_as_it_was(engine, model, tmp_path):
    before = await answers(engine, model)
    lora = model_factory.random_lora(tmp_path / "lora", model)
    merged = model_factory.merged_model(tmp_path / "merged", model, lora)
    found = await answers(engine, lora)
    assert found == await answers(engine, merged)
    assert found != before == await answers(engine, model)
    assert await answers(engine, lora, deterministic=True) == found


async def test_a_pattern_that_would_run_for_ever_is_not_run(engine, model, tmp_path):
    """The weights say which modules it would have matched."""
    named = model_factory.random_lora(tmp_path / "named", model)
    pattern = model_factory.random_lora(tmp_path / "pattern", model, target_modules="(.*.*.*.*.*.*.*.*)*!")
    async with asyncio.timeout(60):
        assert await answers(engine, pattern) == await answers(engine, named)


async def test_a_lora_takes_the_room_of_its_base(model, tmp_path):
    lora = model_factory.random_lora(tmp_path / "lora", model)
    async with open_transformers_engine(EngineConfig(threads=1)) as engine:
        await engine.load(model)
        size_bytes = engine.residency.size_bytes
        await engine.load(lora)
        assert engine.residency.size_bytes == 2 * size_bytes
        await engine.unload(lora)
        assert [key.model for key in engine.residency.keys] == [model]


@pytest.mark.parametrize("wrong", ["deeper base", "other shape", "foreign weights"])
async def test_a_lora_that_does_not_fit_its_base_is_refused_and_harms_it_not(engine, model, tmp_path, wrong):
    lora = model_factory.random_lora(tmp_path / "lora", model, layers=3 if wrong == "deeper base" else 2)
    weights = load_file(tmp_path / "lora" / "adapter_model.safetensors")
    name = next(iter(weights))
    if wrong == "other shape":
        weights[name] = torch.zeros(4, 7)
    elif wrong == "foreign weights":
        weights["base_model.model.vision_tower.proj.lora_A.weight"] = torch.zeros(4, 7)
    save_file(weights, tmp_path / "lora" / "adapter_model.safetensors")
    with pytest.raises(OmnialignError) as caught:
        await engine.load(lora)
    assert caught.value.reason == "LORA_UNSUPPORTED"
    assert await answers(engine, model)
