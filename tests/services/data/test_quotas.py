"""How many datasets a project may have."""

import pytest

from omnialign.client import AsyncClient
from omnialign.errors import ResourceExhausted
from services.data.__main__ import wire
from services.data.config import DataConfig
from services.runtime.config import ServerConfig
from services.runtime.limits import Quotas
from services.runtime.server import Server


async def test_one_dataset_too_many_is_refused_until_another_is_deleted(tmp_path):
    (tmp_path / "quotas").write_text("default: {datasets: 2}\nprojects: {other: {datasets: 0}}")
    server = Server(ServerConfig(), name="data")
    server.quotas = Quotas(tmp_path / "quotas")
    async with wire(server, DataConfig(root=tmp_path / "data")):
        await server.start()
        server.set_serving()
        async with AsyncClient(server.address) as client, AsyncClient(server.address, project="other") as other:
            first = await client.create_dataset("first")
            await client.create_dataset("second")
            for who in (client, other):
                with pytest.raises(ResourceExhausted) as caught:
                    await who.create_dataset("third")
                assert caught.value.reason == "QUOTA_EXCEEDED"
            await client.delete_dataset(first.name)
            await client.create_dataset("third")
        await server.stop(0)
