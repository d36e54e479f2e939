"""Each service and the gateway restarts, one every five seconds, while streams of all kinds run: users see no error."""

import asyncio
import os
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from omnialign.client import AsyncClient
from tests.outage.job import Counts, Materials, counts, end_of, submit
from tests.outage.stand import PROCESSES, Stand
from tests.outage.streams import TrainingJob, begin_training, deliver, prepare_streams

pytestmark = [pytest.mark.outage, pytest.mark.timeout(600)]

ROUNDS = int(os.environ.get("OMNIALIGN_OUTAGE_ROUNDS", "2"))
EVERY_SECONDS, PAUSE_SECONDS = 5.0, 0.3
DELIVERIES = 3


async def test_no_error_reaches_users_while_each_process_is_restarted_every_five_seconds(
    stand: Stand, materials: Materials, calm: Counts, tmp_path: Path
) -> None:
    async with AsyncClient(stand.cluster.address) as client:
        streams = await prepare_streams(client, materials, tmp_path)
        jobs = [await begin_training(client, materials, number) for number in range(DELIVERIES)]
        job = await submit(client, materials, "restarts")
        over = asyncio.Event()
        async with asyncio.TaskGroup() as group:
            watch = group.create_task(end_of(client, job))
            delivering = group.create_task(deliver_all(stand, jobs, materials.folder))
            repeated = {name: group.create_task(repeat(once, until=over)) for name, once in streams.all().items()}
            await restart_in_turn(stand)
            await delivering
            over.set()
        assert counts(watch.result()) == calm
        assert {name for name, task in repeated.items() if not task.result()} == set()


async def restart_in_turn(stand: Stand) -> None:
    """Ends and starts one process after the other."""
    for _ in range(ROUNDS):
        for name in PROCESSES:
            since = time.monotonic()
            await asyncio.to_thread(stand.cluster.end, name)
            await stand.bring_back(name)
            await asyncio.sleep(max(0.0, EVERY_SECONDS - (time.monotonic() - since)))


async def repeat(once: Callable[[], Awaitable[None]], *, until: asyncio.Event) -> int:
    """Does something again and again; returns how often."""
    count = 0
    while not until.is_set():
        await once()
        count += 1
        await asyncio.sleep(PAUSE_SECONDS)
    return count


async def deliver_all(stand: Stand, jobs: list[TrainingJob], folder: Path) -> None:
    """Delivers one model after the other, so that restarts meet them."""
    for job in jobs:
        await deliver(stand, job, folder)
        await asyncio.sleep(EVERY_SECONDS)
