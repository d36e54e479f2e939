"""Examples come from the data service once, and are then read from the cache."""

import asyncio
from pathlib import Path

import pytest

from omnialign.client import AsyncClient
from omnialign.errors import FailedPrecondition, NotFound
from omnialign.modeling.adapters import load_adapter
from omnialign.v1 import record_pb2
from services.data.__main__ import wire
from services.data.config import DataConfig
from services.runtime.config import ServerConfig
from services.runtime.server import Server
from tests.training.in_process import kept
from tests.training.multimodal import medium
from training import source
from training.example_file import Examples
from training.examples import Example, MediaRef
from training.media import path_of
from training.spec_file import parse_spec


async def test_examples_survive_the_data_service(tmp_path: Path, model_dir: Path, record):
    server = Server(ServerConfig(), name="test")
    document = {"job": "j", "base_model_dir": str(model_dir), "output_dir": str(tmp_path), "cache_dir": str(tmp_path)}
    async with wire(server, DataConfig(root=tmp_path / "data")):
        await server.start()
        server.set_serving()
        async with AsyncClient(server.address) as client:
            dataset = await client.create_dataset("pairs")
            lonely = record_pb2.Record(id="r2", subtask="t2t", split="train", prompt=record.prompt)
            await client.append_records(dataset.name, [record, lonely])
            version = await client.commit_version(dataset.name)
            await client.append_records(dataset.name, [record_pb2.Record(id="r3", subtask="t2t", prompt=record.prompt)])
        adapter, heard = load_adapter(model_dir), []
        options = {"adapter": adapter, "on_read": lambda **counts: heard.append(counts)}
        spec = parse_spec({**document, "dataset": dataset.name, "data_address": server.address}, method="dpo")
        await asyncio.to_thread(source.prepare, spec, max_length=99, **options)
        spec = parse_spec({**document, "dataset": version.name, "data_address": server.address}, method="dpo")
        path = await asyncio.to_thread(source.prepare, spec, max_length=100, **options)
        assert heard == [{"read": 0, "total": 3}, {"read": 0, "total": 2}]
        empty = parse_spec(
            {**document, "dataset": dataset.name, "data_address": server.address, "splits": ["test"]}, method="dpo"
        )
        with pytest.raises(FailedPrecondition) as caught:
            await asyncio.to_thread(source.prepare, empty, max_length=100, adapter=adapter)
        assert caught.value.reason == "NO_EXAMPLES"
        await server.stop(0)
    assert await asyncio.to_thread(source.prepare, spec, max_length=100, adapter=adapter) == path
    assert source.dropped(spec, max_length=100) == {"NO_PAIR": 1}
    (example,) = Examples(path)
    assert len(example.answers) == 2
    assert len(example.answers[0]) == len("hello") + 1


async def test_every_node_gets_the_media_that_its_examples_name(tmp_path: Path, model_dir: Path):
    picture = medium("image")
    folders = {"job": "j", "base_model_dir": str(model_dir), "output_dir": str(tmp_path), "cache_dir": str(tmp_path)}
    found = kept([Example([1], [[2]], (MediaRef(picture.sha256, picture.modality),))], tmp_path)
    server = Server(ServerConfig(), name="test")
    async with wire(server, DataConfig(root=tmp_path / "data")):
        await server.start()
        server.set_serving()
        async with AsyncClient(server.address) as client:
            await client.upload_media(picture.data, modality=picture.modality)
        spec = parse_spec({**folders, "dataset": "d", "data_address": server.address}, method="dpo")
        await asyncio.to_thread(source.provide_media, spec, found)
        await server.stop(0)
    assert path_of(source.media_folder(spec), picture.sha256).read_bytes() == picture.data
    alone = parse_spec({**folders, "dataset": "d"}, method="dpo")
    source.provide_media(alone, found)  # what is there needs no service
    path_of(source.media_folder(spec), picture.sha256).unlink()
    with pytest.raises(NotFound) as caught:
        source.provide_media(alone, found)
    assert caught.value.reason == "MEDIA_NOT_FOUND"
