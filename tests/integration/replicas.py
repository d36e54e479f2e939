"""Replicas of the alignment service as processes, on one PostgreSQL, among null models and a real data service."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import sqlalchemy as sa

from omnialign.client import AsyncClient
from omnialign.errors import NotFound, OmnialignError
from services.alignment.job import ALIGNMENT, EVALUATION_STEPS, LOOP_STAGES, PAIRS, VERIFY
from services.migrate import VARIABLES, WORKFLOWS, migrate
from services.runtime.database import parse_url
from tests.processes import REPOSITORY, free_port
from tests.service_stack import Job, ServiceStack

SECONDS = 150.0
OWN_PACE = {
    "ALIGNMENT_HEARTBEAT_SECONDS": 1.0,
    # Longer than a replica may take to reach a database that is back: a connection that hangs, and a pause.
    "ALIGNMENT_SILENCE_SECONDS": 12.0,
}
"""How often replicas say here that they live."""
WRITTEN = (*LOOP_STAGES, PAIRS, *EVALUATION_STEPS)


class Replicas:
    """The processes, by name, which is also the executor's id. `stack` is everything else, in this process."""

    def __init__(self, root: Path, url: str) -> None:
        self.root, self.url = root, url
        self.stack = ServiceStack(root)
        self.ports: dict[str, int] = {}
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    async def migrate(self) -> None:
        """Creates the tables."""
        urls = dict.fromkeys((*VARIABLES, *WORKFLOWS), self.url)
        assert await migrate(urls, deadline_seconds=60) == 0

    def spawn(self, name: str, *, pace: Mapping[str, float] = OWN_PACE) -> None:
        """Starts a replica; with an empty `pace` its heartbeats are those that are shipped."""
        self.ports.setdefault(name, free_port())
        settings = {
            "ALIGNMENT_ROOT": self.root / name,
            "ALIGNMENT_DATABASE_URL": self.url,
            "ALIGNMENT_WORKFLOW_DATABASE_URL": self.url,
            "ALIGNMENT_EXECUTOR_ID": name,
            "ALIGNMENT_CHUNKS_PER_JOB": 3,
            "ALIGNMENT_RETRY_CAP_SECONDS": 0.5,
            **pace,
            "SERVER_HOST": "127.0.0.1",
            "SERVER_PORT": self.ports[name],
            "SERVER_DRAIN_SECONDS": 0,
        }
        for service, server in {"data": "data", "training": "training"}.items():
            settings[f"ALIGNMENT_{service}_ADDRESS".upper()] = f"127.0.0.1:{self.stack.ports[server]}"
        for service in ("refinement", "critique", "judge"):
            settings[f"ALIGNMENT_{service}_ADDRESS".upper()] = f"127.0.0.1:{self.stack.ports['models']}"
        with self.log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(
                [sys.executable, "-m", "services.alignment"],
                cwd=REPOSITORY,
                env={**os.environ, **{f"OMNIALIGN_{key}": str(value) for key, value in settings.items()}},
                stdout=log,
                stderr=log,
            )

    def log(self, name: str) -> Path:
        """The log of a replica."""
        return self.root / f"{name}.log"

    def kill(self, name: str) -> None:
        """Kills a replica with SIGKILL."""
        self._processes[name].kill()
        self._processes.pop(name).wait(10)

    def end(self, name: str) -> int:
        """Ends a replica with SIGTERM; returns the exit status."""
        self._processes[name].send_signal(signal.SIGTERM)
        return self._processes.pop(name).wait(30)

    @contextlib.asynccontextmanager
    async def client(self, name: str) -> AsyncIterator[AsyncClient]:
        """A client of one replica."""
        async with AsyncClient(f"127.0.0.1:{self.ports[name]}") as client:
            yield client

    async def ready(self, name: str) -> None:
        """Returns once a replica serves."""
        async with asyncio.timeout(SECONDS), self.client(name) as client:
            while (await problem(client)) is not None:
                process = self._processes[name]
                assert process.poll() is None, self.log(name).read_text()[-4000:]
                await asyncio.sleep(0.1)

    async def end_of(self, name: str, job: Job) -> Job:
        """Waits for a job to end, according to one replica, and returns it; repeats calls that fail meanwhile."""
        deadline = time.monotonic() + SECONDS
        async with self.client(name) as client:
            while time.monotonic() < deadline:
                with contextlib.suppress(OmnialignError):
                    job = await client.get_alignment_job(job.name)
                    if job.state in ALIGNMENT.ended:
                        return job
                await asyncio.sleep(0.1)
        raise AssertionError(f"the job has not ended: {job}\n{self.log(name).read_text()[-4000:]}")

    async def check(self, job: Job, *, prompts: int, test: int) -> None:
        """Asserts that the job succeeded with every record once in every table, and each model trained once."""
        assert job.state == Job.STATE_SUCCEEDED, job.error
        for purpose in WRITTEN:
            ids = Counter(record.id for record in await self.stack.records(job, purpose))
            expected = test if purpose in EVALUATION_STEPS else prompts
            assert (len(ids), set(ids.values())) == (expected, {1}), purpose
        assert (job.pairs.tried, job.pairs.kept) == (prompts, prompts)
        assert len(self.stack.training.jobs) == 3

    async def verified(self, job: Job) -> list[str]:
        """Ids of the records that have finished the loop; none before their table exists."""
        try:
            return [record.id for record in await self.stack.records(job, VERIFY)]
        except NotFound:
            return []

    def rows(self, query: str, **values: Any) -> Sequence[Any]:
        """Rows of a query on the database."""
        engine = sa.create_engine(parse_url(self.url), poolclass=sa.NullPool)
        with engine.connect() as connection:
            return connection.execute(sa.text(query), values).all()

    def executors(self, job: Job, *, chunks: bool) -> set[str]:
        """The replicas that work, or have worked, on a job or on its chunks."""
        query = "SELECT DISTINCT executor_id FROM dbos.workflow_status WHERE workflow_uuid LIKE :pattern"
        pattern = f"{job.uid}/%" if chunks else job.uid
        return {row.executor_id for row in self.rows(query, pattern=pattern)}

    async def close(self) -> None:
        """Ends everything."""
        for name in list(self._processes):
            self.kill(name)
        await self.stack.close()


async def problem(client: AsyncClient) -> OmnialignError | None:
    """Why a replica does not answer; None when it does."""
    try:
        async with asyncio.timeout(2):
            async for _ in client.list_alignment_jobs():
                break
    except OmnialignError as error:
        return error
    except TimeoutError:
        return OmnialignError("it took too long")
    return None
