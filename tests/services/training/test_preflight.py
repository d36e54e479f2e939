"""The estimate of a job's memory: told when it is created or only checked, and a reason to refuse it."""

from pathlib import Path

import pytest
from google.protobuf.message import Message

from omnialign.client import AsyncClient
from omnialign.errors import InvalidArgument, NotFound, ResourceExhausted
from services.training.preflight import machine_bytes
from tests.services.data.test_loras import lora
from tests.services.inference.model_factory import random_model


async def names_of(client: AsyncClient) -> list[str]:
    return [job.name async for job in client.list_training_jobs()]


def parts(memory: Message) -> dict[str, object]:
    return {field.name: value for field, value in memory.ListFields()}


async def test_a_check_estimates_the_memory_and_creates_nothing(serve, spec, program, tmp_path: Path):
    spec.base_model = random_model(tmp_path / "random")
    async with serve(program("wait_for('/never')")) as client:
        checked = await client.create_training_job("tune", spec, validate_only=True)
        assert await names_of(client) == []
        memory = checked.memory
        assert (memory.device, memory.device_bytes) == ("cpu", machine_bytes())
        assert memory.weights_bytes * 2 == memory.optimizer_bytes > 0
        assert memory.libraries_bytes < memory.least_bytes < memory.total_bytes
        created = await client.create_training_job("tune", spec)
        assert parts(created.memory) == parts(memory) == parts((await client.get_training_job(created.name)).memory)


async def test_a_lora_needs_what_its_base_does_and_less_for_what_learns(serve, spec, program, tmp_path: Path):
    async with serve(program("finish()")) as client:
        base = (await client.register_model("base", random_model(tmp_path / "random"))).name
        spec.base_model = base
        full = (await client.create_training_job("", spec, validate_only=True)).memory
        spec.base_model = (await client.register_model("lora", lora(tmp_path / "lora", base).as_uri())).name
        going_on = (await client.create_training_job("", spec, validate_only=True)).memory
        assert going_on.gradients_bytes < full.gradients_bytes
        assert going_on.weights_bytes >= full.weights_bytes


async def test_a_job_that_no_device_has_room_for_is_refused_with_what_would_help(serve, spec, program, tmp_path: Path):
    spec.base_model = random_model(tmp_path / "random", hidden_size=256, intermediate_size=1024)
    async with serve(program("finish()"), device_memory_bytes=610_000_000) as client:
        for checks in (True, False):
            with pytest.raises(ResourceExhausted, match=r"which has 0\.6 GB; with lora") as caught:
                await client.create_training_job("tune", spec, validate_only=checks)
            assert caught.value.reason == "MEMORY_TOO_SMALL"
        assert await names_of(client) == []


async def test_a_check_names_what_is_wrong_and_an_unknown_shape_gives_no_estimate(serve, spec, program):
    async with serve(program("finish()")) as client:
        assert not (await client.create_training_job("", spec, validate_only=True)).HasField("memory")
        spec.hyperparameters.batch_size, spec.distribution.num_processes = 3, 2
        with pytest.raises(InvalidArgument):
            await client.create_training_job("", spec, validate_only=True)
        spec.distribution.num_processes = 1
        spec.base_model = "projects/default/models/typo/versions/1"
        with pytest.raises(NotFound):
            await client.create_training_job("", spec, validate_only=True)
