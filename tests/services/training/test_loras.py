"""Jobs that train a LoRA or go on from one: found with its base, registered on it, served by an engine."""

import asyncio
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.errors import InvalidArgument
from omnialign.modeling.model_folder import model_class
from omnialign.v1 import record_pb2
from omnialign.v1.training_service_pb2 import LoraSettings, TrainingJob
from services.inference.config import EngineConfig
from services.inference.models.resolver import ModelResolver, path_of
from services.inference.transformers.engine import open_transformers_engine
from services.inference.transformers.loading import merge_lora
from tests.services.data.test_loras import lora
from tests.services.inference import model_factory

PROMPTS = ["what is red", "a"]


async def end_of(client: AsyncClient, name: str) -> TrainingJob:
    return [event async for event in client.watch_training_job(name)][-1].training_job


def run_spec(root: Path) -> dict:
    (path,) = root.glob("training/jobs/*/job.yaml")
    return yaml.safe_load(path.read_text())


@pytest.mark.parametrize("registered", [False, True])
async def test_a_job_that_starts_from_a_lora_gets_its_base_and_trains_on(serve, spec, program, tmp_path, registered):
    async with serve(program("finish()")) as client:
        base = (await client.register_model("base", spec.base_model)).name
        spec.base_model = lora(tmp_path / "lora", base).as_uri()
        if registered:
            spec.base_model = (await client.register_model("lora", spec.base_model)).name
        job = await client.create_training_job("tune", spec)
        job = await end_of(client, job.name)
        assert job.state == TrainingJob.STATE_SUCCEEDED, job
        found = run_spec(tmp_path)
        assert (found["base_model"], found["base_model_dir"]) == (base, str(tmp_path / "base"))
        assert (found["initial_lora_dir"], found["lora"]) == (str(tmp_path / "lora"), {})
        sources = {edge.source for edge in (await client.get_lineage(job.model)).edges}
        assert spec.base_model in sources


async def test_a_lora_whose_base_is_gone_fails_the_job_before_anything_starts(serve, spec, program, tmp_path):
    async with serve(program("finish()")) as client:
        base = (await client.register_model("base", spec.base_model)).name
        spec.base_model = (await client.register_model("lora", lora(tmp_path / "lora", base).as_uri())).name
        await client.delete_model_version(base, force=True)
        job = await client.create_training_job("tune", spec)
        job = await end_of(client, job.name)
        assert (job.state, job.attempt_count) == (TrainingJob.STATE_FAILED, 0)
        assert b"LORA_BASE_MISSING" in job.error.SerializeToString()
        assert base in job.error.message


async def test_a_lora_that_could_not_be_registered_in_the_end_is_refused_at_once(serve, spec, program, tmp_path):
    async with serve(program("finish()")) as client:
        folder = spec.base_model
        spec.lora.rank = 4
        for base in (folder, lora(tmp_path / "lora", folder).as_uri()):
            spec.base_model = base
            with pytest.raises(InvalidArgument) as caught:
                await client.create_training_job("tune", spec)
            assert (caught.value.reason, caught.value.metadata["model"]) == ("BASE_MODEL_NOT_REGISTERED", folder)
        spec.base_model, spec.lora.merge = folder, True
        await client.create_training_job("tune", spec)


async def answers(engine, model: str) -> list:
    asked = model_factory.requests(model, PROMPTS, max_new_tokens=12)
    found = {result.id: result async for result in engine.generate(asked, deterministic=True)}
    assert [result.error for result in found.values() if result.error] == []
    return [found[str(i)].pieces for i in range(len(PROMPTS))]


def logits(model, ids: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(ids).logits


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_trained_lora_is_served_on_its_base_and_trained_on_and_merged(serve, spec, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    model_factory.random_model(tmp_path / "random")
    spec.method, spec.target = "sft", "response"
    spec.lora.CopyFrom(LoraSettings(rank=4, target_modules=["q_proj", "v_proj", "up_proj", "down_proj"]))
    spec.hyperparameters.max_steps, spec.hyperparameters.batch_size, spec.hyperparameters.learning_rate = 6, 4, 0.03
    async with serve(()) as client:
        base = (await client.register_model("base", (tmp_path / "random").as_uri())).name
        dataset = await client.create_dataset("pairs")
        said = [record_pb2.Response(content=content("word0007"))]
        records = [
            record_pb2.Record(id=f"r{i}", subtask="t2t", prompt=content(f"word{i:04d}"), responses=said)
            for i in range(8)
        ]
        await client.append_records(dataset.name, records)
        await client.commit_version(dataset.name)
        spec.base_model = base
        first = await end_of(client, (await client.create_training_job("first", spec)).name)
        assert first.state == TrainingJob.STATE_SUCCEEDED, first
        version = await client.get_model_version(first.model)
        assert version.lora_base == base
        spec.base_model, spec.output_model_id = first.model, "merged"
        spec.lora.CopyFrom(LoraSettings(merge=True))
        spec.hyperparameters.max_steps, spec.hyperparameters.learning_rate = 1, 1e-9  # as good as no step
        second = await end_of(client, (await client.create_training_job("second", spec)).name)
        assert second.state == TrainingJob.STATE_SUCCEEDED, second
        merged = await client.get_model_version(second.model)
        assert merged.lora_base == ""
        async with open_transformers_engine(EngineConfig(threads=1), models=client) as engine:
            before, after, whole = [await answers(engine, model) for model in (base, first.model, second.model)]
        assert before != after == whole
        files = await ModelResolver(client).find(first.model)
    folder = path_of(merged.uri, model=merged.name)
    ids = torch.randint(7, 300, (2, 12), generator=torch.Generator().manual_seed(0))
    plain = model_class(files.folder).from_pretrained(files.folder, dtype=torch.float32)
    changed = await asyncio.to_thread(merge_lora, plain, files.lora, model=first.model)
    whole = model_class(folder).from_pretrained(folder, dtype=torch.float32)
    torch.testing.assert_close(logits(whole, ids), logits(changed, ids), atol=1e-4, rtol=0)
    weights = load_file(files.lora / "adapter_model.safetensors")
    assert {name.split(".")[-3] for name in weights} == {"q_proj", "v_proj", "up_proj", "down_proj"}
