"""The training and the data service with the launcher of a cluster, against an API server that a test can bend."""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from omnialign.client import AsyncClient
from omnialign.retry import RetryPolicy
from omnialign.v1.training_service_pb2 import TrainingJob, TrainingSpec
from services.data.__main__ import wire as wire_data
from services.data.config import DataConfig
from services.runtime.config import ServerConfig
from services.runtime.server import Server
from services.training import supervisor
from services.training.__main__ import wire
from services.training.config import TrainingConfig
from services.training.kubernetes import mirror
from tests.processes import free_port
from tests.services.training.kubernetes.fake_api import TOKEN, FakeApi, Object
from tests.services.training.kubernetes.fake_controllers import Controllers

NAME = "projects/default/trainingJobs/tune"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Waits of seconds become waits of tenths, so that a test of a failure need not wait for real ones."""
    monkeypatch.setattr(supervisor, "BLOCKED_SECONDS", 0.1)
    monkeypatch.setattr(mirror, "SHOWN_SECONDS", 0.2)
    monkeypatch.setattr(mirror, "RETRIES", RetryPolicy(base_seconds=0.05, cap_seconds=10.0))


@pytest.fixture
async def api() -> AsyncIterator[FakeApi]:
    """A cluster with a Job controller and no nodes."""
    fake = FakeApi()
    await fake.start()
    controllers = Controllers(fake)
    controllers.start()
    yield fake
    await controllers.stop()
    await fake.stop()


class Cluster:
    """The services and the cluster that they use."""

    def __init__(self, api: FakeApi, client: AsyncClient, spec: TrainingSpec) -> None:
        self.api, self.client, self.spec = api, client, spec

    async def create(self, **fields: Any) -> TrainingJob:
        for name, value in fields.items():
            setattr(self.spec, name, value)
        return await self.client.create_training_job("tune", self.spec)

    async def job(self) -> TrainingJob:
        return await self.client.get_training_job(NAME)

    async def until(self, condition: Callable[[], Any] | Callable[[], Awaitable[Any]]) -> Any:
        async with asyncio.timeout(20):
            while True:
                found = condition()
                if asyncio.iscoroutine(found):
                    found = await found
                if found:
                    return found
                await asyncio.sleep(0.02)

    async def pods(self, count: int = 1) -> list[Object]:
        """Waits for so many pods of the newest attempt that have not ended."""

        def living() -> list[Object]:
            found = [p for p in self.api.of("pods") if p["status"]["phase"] in ("Pending", "Running")]
            return found if len(found) == count else []

        return list(await self.until(living))

    async def condition(self, reason: str) -> TrainingJob:
        async def shown() -> TrainingJob | None:
            job = await self.job()
            assert job.state not in (TrainingJob.STATE_FAILED, TrainingJob.STATE_SUCCEEDED), job
            return job if job.condition.reason == reason else None

        return await self.until(shown)

    async def state(self, state: int) -> TrainingJob:
        async def reached() -> TrainingJob | None:
            job = await self.job()
            return job if job.state == state else None

        return await self.until(reached)

    def set_pod(self, pod: Object, status: Object) -> None:
        self.api.change("pods", pod["metadata"]["name"], {"status": status})


Serve = Callable[..., AbstractAsyncContextManager[Cluster]]


@pytest.fixture
def spec(base_model: Path) -> TrainingSpec:
    return TrainingSpec(
        method="dpo",
        base_model="projects/default/models/base/versions/1",
        dataset="projects/default/datasets/pairs",
        output_model_id="aligned",
    )


@pytest.fixture
def serve_cluster(tmp_path: Path, api: FakeApi, spec: TrainingSpec, base_model: Path) -> Serve:
    """Starts the services; a second call is a restart."""
    port = free_port()

    @asynccontextmanager
    async def start(*, kubernetes: dict[str, Any] | None = None, **settings: Any) -> AsyncIterator[Cluster]:
        kubeconfig, file = tmp_path / "kubeconfig", tmp_path / "kubernetes.yaml"
        kubeconfig.write_text(yaml.safe_dump(kubeconfig_of(api)))
        given = {"image": "registry.test/trainer:1", "namespace": "test", "kubeconfig": str(kubeconfig)}
        file.write_text(yaml.safe_dump({**given, **(kubernetes or {})}))
        address = f"127.0.0.1:{port}"
        config = TrainingConfig(
            root=tmp_path / "training",
            launcher="kubernetes",
            kubernetes_file=file,
            data_address=address,
            training_address=address,
            poll_seconds=0.05,
        )
        server = Server(ServerConfig(port=port), name="test")
        async with wire_data(server, DataConfig(root=tmp_path / "data")), wire(server, replace(config, **settings)):
            await server.start()
            server.set_serving()
            try:
                async with AsyncClient(server.address) as client:
                    with contextlib.suppress(Exception):
                        await client.register_model("base", base_model.as_uri())
                    yield Cluster(api, client, spec)
            finally:
                await server.stop(0)

    return start


def kubeconfig_of(api: FakeApi) -> dict[str, Any]:
    return {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "fake", "cluster": {"server": f"http://{api.host}:{api.port}"}}],
        "users": [{"name": "service", "user": {"token": TOKEN}}],
        "contexts": [{"name": "fake", "context": {"cluster": "fake", "user": "service"}}],
        "current-context": "fake",
    }
