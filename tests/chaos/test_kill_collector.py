"""SIGKILL to the data service at random moments while it collects garbage and datasets come and go.

Every medium that a version names stays readable with its digest, and at the end nothing is left that no version names.
`OMNIALIGN_CHAOS_SEED` chooses the moments and what is done.
"""

import asyncio
import contextlib
import os
import random
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.errors import OmnialignError
from omnialign.v1 import content_pb2, record_pb2
from tests.chaos.stack_process import StackProcess
from tests.integration.data_service import png_bytes, sha256_hex

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

SEED = int(os.environ.get("OMNIALIGN_CHAOS_SEED", "7"))
KILLS, MEDIA, MOST_DATASETS = 20, 60, 6
GRACE_SECONDS = 0.5
PICTURES = {sha256_hex(data): data for data in (png_bytes(seed, side=8) for seed in range(MEDIA))}


@dataclass
class World:
    """What must be there: the media of each dataset that was committed and not deleted since."""

    draw: random.Random
    datasets: dict[str, frozenset[str]] = field(default_factory=dict)
    made: int = 0

    async def work(self, client: AsyncClient) -> None:
        """Makes and deletes datasets until a call fails, because the service was killed."""
        while True:
            if len(self.datasets) >= MOST_DATASETS or (self.datasets and self.draw.random() < 0.3):
                # Deleted or not, if the answer is lost: nothing is promised of it from now on.
                name = self.draw.choice(sorted(self.datasets))
                del self.datasets[name]
                await client.delete_dataset(name)
            else:
                await self._make(client)

    async def _make(self, client: AsyncClient) -> None:
        self.made += 1
        chosen = frozenset(self.draw.sample(sorted(PICTURES), 5))
        dataset = await client.create_dataset(f"set-{self.made}")
        media = [await client.upload_media(PICTURES[digest], modality=content_pb2.MODALITY_IMAGE) for digest in chosen]
        records = [record_pb2.Record(id=medium.sha256, prompt=content("x", medium)) for medium in media]
        await client.append_records(dataset.name, records)
        await client.commit_version(dataset.name)
        self.datasets[dataset.name] = chosen

    async def check(self, client: AsyncClient) -> None:
        """Every medium that a version names is there, byte for byte."""
        for name, chosen in self.datasets.items():
            found = {record.id async for record in client.stream_records(f"{name}/versions/1")}
            assert found == chosen
        for digest in set().union(*self.datasets.values()):
            assert await client.get_media(digest) == PICTURES[digest]


async def test_killed_collector_loses_nothing_that_is_named_and_leaves_nothing_that_is_not(tmp_path: Path) -> None:
    world = World(random.Random(SEED))
    service = StackProcess.of_data(
        tmp_path, garbage_grace_seconds=str(GRACE_SECONDS), unnamed_media_seconds="0.5", collect_seconds="0.05"
    )
    await service.start()
    try:
        async with AsyncClient(service.address) as client:
            for _ in range(KILLS):
                work = asyncio.create_task(world.work(client))
                await asyncio.sleep(world.draw.uniform(0.2, 1.5))
                service.kill()
                work.cancel()
                with contextlib.suppress(OmnialignError, asyncio.CancelledError):
                    await work
                await service.start()
                await world.check(client)
            await finish(world, client)
    finally:
        service.kill()
    folder = tmp_path / "data" / "media" / "sha256"
    stored = {path.parent.name + path.name for path in folder.rglob("*") if path.is_file()}
    assert stored == set().union(*world.datasets.values())


async def finish(world: World, client: AsyncClient) -> None:
    """Deletes what lost answers left, and collects until the grace period of all of it is over."""
    for dataset in [dataset async for dataset in client.list_datasets()]:
        if dataset.name not in world.datasets:
            await client.delete_dataset(dataset.name)
    named = len(set().union(*world.datasets.values()))
    async with asyncio.timeout(60):  # until what a killed round had claimed is claimed again
        while [done async for done in client.collect_garbage()][-1].examined_count != named:  # noqa: ASYNC110
            await asyncio.sleep(2 * GRACE_SECONDS)
    await world.check(client)
