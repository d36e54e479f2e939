"""What can be seen of an outage: the readiness of a process, and what callers get."""

import asyncio
import re
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc

from omnialign.client import AsyncClient
from omnialign.errors import DeadlineExceeded, OmnialignError, Unavailable
from omnialign.v1.refinement_service_pb2 import GenerateItem, GenerateRequest
from tests.outage.job import Materials
from tests.outage.stand import Stand, service_of

READY_SECONDS = 10.0
"""Within this, readiness follows what a service needs."""
PATIENCE_SECONDS = 60.0
EXPECTED = (Unavailable, DeadlineExceeded)
"""What a caller may be told during an outage."""


async def follows(stand: Stand, process: str, *, ready: bool) -> None:
    """Asserts that health checks and `omnialign_ready` of a process say so within ten seconds."""
    for source in (health, metric):
        since = time.monotonic()
        while await source(stand, process) != ready:
            assert time.monotonic() - since < PATIENCE_SECONDS, f"{source.__name__} of {process} is not {ready}"
            await asyncio.sleep(0.1)
        seconds = time.monotonic() - since
        assert seconds <= READY_SECONDS, f"{source.__name__} of {process} was {ready} after {seconds:.1f} s"


async def health(stand: Stand, process: str) -> bool:
    """Whether the process answers that it serves."""
    request = health_pb2.HealthCheckRequest(service=service_of(process))
    async with grpc.aio.insecure_channel(stand.cluster.health(process)) as channel:
        try:
            answer = await health_pb2_grpc.HealthStub(channel).Check(request, timeout=5)
        except grpc.aio.AioRpcError:
            return False
    return bool(answer.status == health_pb2.HealthCheckResponse.SERVING)


async def metric(stand: Stand, process: str) -> bool:
    """Whether the process's metrics say that it is ready."""
    try:
        text = await asyncio.to_thread(_scrape, stand.cluster.ports[process].metrics)
    except (urllib.error.URLError, OSError):
        return False
    name = re.escape(service_of(process))
    found = re.search(rf'^omnialign_ready{{[^}}]*service="{name}"[^}}]*}} (\S+)$', text, flags=re.MULTILINE)
    return found is not None and float(found[1]) == 1


def _scrape(port: int) -> str:
    with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return str(answer.read(), "utf-8")


@asynccontextmanager
async def callers(stand: Stand, materials: Materials) -> AsyncIterator[list[tuple[str, OmnialignError]]]:
    """Calls every service through the gateway, again and again, for the block; yields the errors met so far."""
    errors: list[tuple[str, OmnialignError]] = []
    async with AsyncClient(stand.cluster.address) as client:
        tasks = [
            asyncio.create_task(_repeat(name, call, errors), name=name)
            for name, call in _calls(client, materials).items()
        ]
        try:
            yield errors
        finally:
            for task in tasks:
                task.cancel()
            ended = await asyncio.gather(*tasks, return_exceptions=True)
        assert [end for end in ended if not isinstance(end, asyncio.CancelledError)] == []


async def _repeat(name: str, call: Callable[[], Awaitable[None]], errors: list[tuple[str, OmnialignError]]) -> None:
    while True:
        try:
            await call()
        except OmnialignError as error:
            errors.append((name, error))
        await asyncio.sleep(0.5)


def _calls(client: AsyncClient, materials: Materials) -> dict[str, Callable[[], Awaitable[None]]]:
    item = GenerateItem(id="probe")
    item.prompt.parts.add(text="Say hello")
    question = GenerateRequest(model=materials.model, items=[item])
    return {
        "list datasets": lambda: _all(client.list_datasets()),
        "read records": lambda: _all(client.stream_records(materials.dataset)),
        "generate": lambda: _all(client.generate(question, deadline_seconds=10)),
        "list training jobs": lambda: _all(client.list_training_jobs()),
        "list alignment jobs": lambda: _all(client.list_alignment_jobs()),
        "list campaigns": lambda: _all(client.list_campaigns()),
    }


async def _all(items: AsyncIterator[object]) -> None:
    async for _ in items:
        pass
