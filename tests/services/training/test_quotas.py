"""How many training jobs a project may have at a time."""

import uuid

import pytest

from omnialign.client import AsyncClient
from omnialign.errors import ResourceExhausted
from services.data.__main__ import wire as wire_data
from services.data.config import DataConfig
from services.runtime.config import ServerConfig
from services.runtime.limits import Quotas
from services.runtime.server import Server
from services.training.__main__ import wire
from services.training.config import TrainingConfig


async def test_one_job_too_many_is_refused_until_another_has_ended(tmp_path, spec, program):
    (tmp_path / "quotas").write_text("default: {training_jobs: 1}")
    server = Server(ServerConfig(), name="training")
    server.quotas = Quotas(tmp_path / "quotas")
    command = program("wait_for('never')")
    config = TrainingConfig(root=tmp_path / "training", command=command, poll_seconds=0.05)
    async with wire_data(server, DataConfig(root=tmp_path / "data")), wire(server, config):
        await server.start()
        server.set_serving()
        async with AsyncClient(server.address) as client:
            request_id = str(uuid.uuid4())
            first = await client.create_training_job("first", spec, request_id=request_id)
            again = await client.create_training_job("first", spec, request_id=request_id)
            assert again.uid == first.uid  # the same request is no second job
            with pytest.raises(ResourceExhausted) as caught:
                await client.create_training_job("second", spec)
            assert caught.value.metadata == {"project": "default", "quota": "training_jobs", "limit": "1", "used": "1"}
            await client.cancel_training_job(first.name)
            async for _ in client.watch_training_job(first.name):
                pass
            await client.create_training_job("second", spec)
        await server.stop(0)
