"""Examples come from the data service once, and are then read from the cache."""

import asyncio
from pathlib import Path

import pytest

from omnialign.client import AsyncClient
from omnialign.errors import FailedPrecondition
from services.data.__main__ import wire
from services.data.config import DataConfig
from services.runtime.config import ServerConfig
from services.runtime.server import Server
from training import source, tokens
from training.spec import parse_spec


async def test_examples_survive_the_data_service(tmp_path: Path, model_dir: Path, record):
    server = Server(ServerConfig(), name="test")
    document = {"job": "j", "base_model_dir": str(model_dir), "output_dir": str(tmp_path), "cache_dir": str(tmp_path)}
    async with wire(server, DataConfig(root=tmp_path / "data")):
        await server.start()
        server.set_serving()
        async with AsyncClient(server.address) as client:
            dataset = await client.create_dataset("pairs")
            await client.append_records(dataset.name, [record])
            await client.commit_version(dataset.name)
        spec = parse_spec({**document, "dataset": dataset.name, "data_address": server.address})
        path = await asyncio.to_thread(source.prepare, spec, method="dpo", max_length=100)
        empty = parse_spec({**document, "dataset": dataset.name, "data_address": server.address, "splits": ["test"]})
        with pytest.raises(FailedPrecondition) as caught:
            await asyncio.to_thread(source.prepare, empty, method="dpo", max_length=100)
        assert caught.value.reason == "NO_EXAMPLES"
        await server.stop(0)
    assert await asyncio.to_thread(source.prepare, spec, method="dpo", max_length=100) == path
    (example,) = tokens.load(path)
    assert len(example.answers) == 2
    assert len(example.answers[0]) == len("hello") + 1
