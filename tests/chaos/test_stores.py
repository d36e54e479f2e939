"""PostgreSQL or S3 away for 20 s in the middle of a job on two alignment replicas: nothing lost, nothing twice.

Everything lies on the two: jobs, workflows and the registry on PostgreSQL, tables and media on S3. In the last case the
replica that leads the job dies while the store is away.
"""

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from tests.integration.replicas import Replicas
from tests.integration.test_replicas import PROMPTS, TEST, begun, submit
from tests.postgresql import PostgreSQL
from tests.s3_server import S3Server

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(600)]

AWAY_SECONDS = float(os.environ.get("OMNIALIGN_CHAOS_AWAY_SECONDS", "20"))
NAMES = ("alignment-a", "alignment-b")


@asynccontextmanager
async def running(root: Path, postgres: PostgreSQL, s3: S3Server) -> AsyncIterator[Replicas]:
    replicas = Replicas(root, postgres.create_database())
    replicas.stack.data_settings = {"database_url": replicas.url, **s3.settings("chaos")}
    try:
        await replicas.migrate()
        await replicas.stack.start("data", "models", "training")
        replicas.stack.client = await replicas.stack.connect("data")
        for name in NAMES:
            replicas.spawn(name)
        await asyncio.gather(*map(replicas.ready, NAMES))
        yield replicas
    finally:
        await replicas.close()


@pytest.mark.parametrize("kills_leader", [False, True], ids=["", "leader killed"])
@pytest.mark.parametrize("fault", ["postgresql stopped", "postgresql frozen", "s3 stopped"])
async def test_a_job_survives_a_store_that_is_away(
    tmp_path: Path, own_postgres: PostgreSQL, own_s3: S3Server, fault: str, kills_leader: bool
) -> None:
    async with running(tmp_path, own_postgres, own_s3) as replicas:
        async with replicas.client(NAMES[0]) as client:
            job = await submit(replicas, client)
        await begun(replicas, job)
        (leader,) = replicas.executors(job, chunks=False)
        (left,) = set(NAMES) - {leader}
        leave, come_back = {
            "postgresql stopped": (own_postgres.stop, own_postgres.start),
            "postgresql frozen": (own_postgres.pause, own_postgres.go_on),
            "s3 stopped": (own_s3.stop, own_s3.start),
        }[fault]
        await asyncio.to_thread(leave)
        if kills_leader:
            replicas.kill(leader)
        await asyncio.sleep(AWAY_SECONDS)
        await asyncio.to_thread(come_back)
        job = await replicas.end_of(left, job)
        await replicas.check(job, prompts=PROMPTS, test=TEST)
