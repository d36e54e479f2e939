"""Several replicas of the alignment service on one PostgreSQL: they share a job, and survive each other and it.

`OMNIALIGN_CHAOS_AWAY_SECONDS` is how long PostgreSQL is away.
"""

import asyncio
import os
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from omnialign.client import AsyncClient
from tests.integration.replicas import OWN_PACE, SECONDS, Replicas, problem
from tests.postgresql import PostgreSQL
from tests.service_stack import Job

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]

PROMPTS, TEST = 48, 8
TAKEOVER_SECONDS = 15.0
"""Within this, what a dead replica worked on is taken up: ten seconds of silence, and the time to notice."""
AWAY_SECONDS = float(os.environ.get("OMNIALIGN_CHAOS_AWAY_SECONDS", "6"))


@asynccontextmanager
async def running(root: Path, url: str, *names: str, pace: Mapping[str, float] = OWN_PACE) -> AsyncIterator[Replicas]:
    replicas = Replicas(root, url)
    try:
        await replicas.migrate()
        await replicas.stack.start("data", "models", "training")
        replicas.stack.client = await replicas.stack.connect("data")
        for name in names:
            replicas.spawn(name, pace=pace)
        await asyncio.gather(*map(replicas.ready, names))
        yield replicas
    finally:
        await replicas.close()


async def submit(replicas: Replicas, client: AsyncClient) -> Job:
    replicas.stack.behaviour.delay_seconds = 0.1
    spec = await replicas.stack.spec(prompts=PROMPTS, test=TEST, chunk_size=2)
    return await client.create_alignment_job("shared", spec)


async def begun(replicas: Replicas, job: Job) -> None:
    """Returns once some records are through the loop, and most are not."""
    async with asyncio.timeout(SECONDS):
        while True:
            if len(await replicas.verified(job)) >= 6:
                return
            await asyncio.sleep(0.05)


async def led_by(replicas: Replicas, job: Job, name: str) -> None:
    """Returns once this replica leads the job."""
    async with asyncio.timeout(SECONDS):
        while True:
            if replicas.executors(job, chunks=False) == {name}:
                return
            await asyncio.sleep(0.1)


async def test_two_replicas_share_a_job_and_both_serve_its_report(tmp_path: Path, postgres_url: str) -> None:
    async with running(tmp_path, postgres_url, "alignment-a", "alignment-b") as replicas:
        async with replicas.client("alignment-a") as client:
            job = await submit(replicas, client)
        job = await replicas.end_of("alignment-b", job)
        await replicas.check(job, prompts=PROMPTS, test=TEST)
        assert replicas.executors(job, chunks=True) == {"alignment-a", "alignment-b"}
        reports = []
        for name in ("alignment-a", "alignment-b"):
            async with replicas.client(name) as client:
                reports.append(await client.get_alignment_report(job.name))
        assert reports[0] == reports[1] and len(reports[0]) > 100
        assert replicas.end("alignment-a") == 0


async def test_the_work_of_a_killed_replica_is_taken_over_within_15_seconds_as_shipped(
    tmp_path: Path, postgres_url: str
) -> None:
    async with running(tmp_path, postgres_url, "alignment-a", "alignment-b", pace={}) as replicas:
        async with replicas.client("alignment-a") as client:
            job = await submit(replicas, client)
            await begun(replicas, job)
        (killed,) = replicas.executors(job, chunks=False)  # the one that leads the job, and works on chunks too
        (left,) = {"alignment-a", "alignment-b"} - {killed}
        replicas.kill(killed)
        killed_at = time.monotonic()
        await led_by(replicas, job, left)
        assert time.monotonic() - killed_at <= TAKEOVER_SECONDS
        job = await replicas.end_of(left, job)
        await replicas.check(job, prompts=PROMPTS, test=TEST)


async def test_the_work_of_a_replica_that_is_ended_in_order_is_taken_over_at_once(
    tmp_path: Path, postgres_url: str
) -> None:
    async with running(tmp_path, postgres_url, "alignment-a") as replicas:
        async with replicas.client("alignment-a") as client:
            job = await submit(replicas, client)
            await begun(replicas, job)
        replicas.spawn("alignment-b")
        await replicas.ready("alignment-b")
        assert await asyncio.to_thread(replicas.end, "alignment-a") == 0
        job = await replicas.end_of("alignment-b", job)
        await replicas.check(job, prompts=PROMPTS, test=TEST)


@pytest.mark.chaos
@pytest.mark.parametrize("how", ["frozen", "stopped"])
async def test_a_job_goes_on_after_postgresql_was_away(tmp_path: Path, own_postgres: PostgreSQL, how: str) -> None:
    async with running(tmp_path, own_postgres.create_database(), "alignment-a", "alignment-b") as replicas:
        async with replicas.client("alignment-a") as client:
            job = await submit(replicas, client)
            await begun(replicas, job)
            if how == "frozen":
                own_postgres.pause()
                await asyncio.sleep(AWAY_SECONDS)
                own_postgres.go_on()
            else:
                await asyncio.to_thread(own_postgres.stop)
                await until_away(client)
                await asyncio.sleep(AWAY_SECONDS)
                await asyncio.to_thread(own_postgres.start)
        job = await replicas.end_of("alignment-b", job)
        await replicas.check(job, prompts=PROMPTS, test=TEST)
        for name in ("alignment-a", "alignment-b"):  # neither took the other's silence for its death
            assert "is gone" not in replicas.log(name).read_text()


async def test_a_replica_waits_for_a_database_and_its_tables_without_crashing(
    tmp_path: Path, own_postgres: PostgreSQL
) -> None:
    url = own_postgres.create_database()
    own_postgres.stop()
    replicas = Replicas(tmp_path, url)
    try:
        replicas.spawn("alignment-a")
        async with replicas.client("alignment-a") as client:
            await until_refused(client, "DATABASE_UNAVAILABLE")
            await asyncio.to_thread(own_postgres.start)
            await until_refused(client, "SCHEMA_MISSING")
            await replicas.migrate()
            await replicas.ready("alignment-a")
        assert await asyncio.to_thread(replicas.end, "alignment-a") == 0
    finally:
        await replicas.close()


async def until_away(client: AsyncClient) -> None:
    """Returns once calls fail because the database is away."""
    async with asyncio.timeout(SECONDS):
        while True:
            found = await problem(client)
            if found is not None and found.reason == "DATABASE_UNAVAILABLE":
                return


async def until_refused(client: AsyncClient, cause: str) -> None:
    """Returns once calls are refused because of this."""
    async with asyncio.timeout(SECONDS):
        while True:
            found = await problem(client)
            if found is not None and found.reason == "NOT_READY" and found.metadata["cause"] == cause:
                return
            await asyncio.sleep(0.1)
