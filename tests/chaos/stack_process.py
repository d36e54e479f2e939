"""A stack in its own process: started, killed with all its children, and searched for the work it had committed."""

import asyncio
import contextlib
import os
import random
import sqlite3
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from omnialign.client import AsyncClient
from omnialign.errors import OmnialignError
from omnialign.v1 import alignment_service_pb2, record_pb2
from tests.processes import REPOSITORY, free_port, kill_group

Job = alignment_service_pb2.AlignmentJob
StageStatus = alignment_service_pb2.StageStatus
Step = tuple[str, str, int]
START_SECONDS = 180.0


@dataclass(frozen=True)
class CommittedWork:
    """What the database held of a job right after a kill."""

    state: int
    running: frozenset[str]
    """Stages that were running."""
    attempts: dict[Step, int]
    done: frozenset[Step]
    in_flight: frozenset[tuple[str, int]]
    """Chunks, as (phase, number), that had started and not finished."""


@dataclass
class StackProcess:
    """A stack that can be killed and started again. In `command` and settings, `{port}` and `{root}` are filled in."""

    root: Path
    command: Sequence[str]
    port: int = field(default_factory=free_port)
    process: subprocess.Popen[bytes] | None = None
    look: str = "list_alignment_jobs"
    """A list of the client that answers once the stack is ready."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Variables of its environment, without `OMNIALIGN_`."""

    @classmethod
    def of_data(cls, root: Path, **settings: str) -> "StackProcess":
        """The data service alone; settings are its own, such as `sweep_seconds`."""
        own = {f"DATA_{name.upper()}": value for name, value in settings.items()}
        places = {"SERVER_PORT": "{port}", "SERVER_REFLECTION": "false", "DATA_ROOT": "{root}/data"}
        return cls(root, ["-m", "services.data"], look="list_datasets", settings=places | own)

    @property
    def address(self) -> str:
        """The address of its services, as host:port."""
        return f"127.0.0.1:{self.port}"

    async def start(self) -> None:
        """Starts the stack and returns once it answers."""
        self._spawn()
        await self._answers()

    def _spawn(self) -> None:
        self.root.mkdir(parents=True, exist_ok=True)
        command = [part.format(port=self.port, root=self.root) for part in self.command]
        settings = {f"OMNIALIGN_{k}": v.format(port=self.port, root=self.root) for k, v in self.settings.items()}
        with (self.root / "stack.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, *command],
                cwd=REPOSITORY,
                stdout=log,
                stderr=log,
                start_new_session=True,
                env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY), **settings},
            )

    def kill(self) -> None:
        """Sends SIGKILL to the process group and to every descendant, whatever group that has moved to."""
        assert self.process is not None
        with contextlib.suppress(psutil.NoSuchProcess):
            descendants = psutil.Process(self.process.pid).children(recursive=True)
            kill_group(self.process.pid)
            for process in descendants:
                with contextlib.suppress(psutil.NoSuchProcess):
                    process.kill()
            psutil.wait_procs(descendants, timeout=10)
        self.process.wait(10)

    def committed_work(self, uid: str) -> CommittedWork:
        """What the stack had committed of a job; call it after a kill."""
        with contextlib.closing(sqlite3.connect(self.root / "alignment" / "alignment.db")) as database:
            (row,) = database.execute("SELECT job FROM alignment_jobs WHERE uid = ?", (uid,)).fetchall()
            query = "SELECT phase, step, number, attempts, counts IS NOT NULL FROM alignment_steps WHERE uid = ?"
            steps = database.execute(query, (uid,)).fetchall()
        job = Job.FromString(row[0])
        return CommittedWork(
            state=job.state,
            running=frozenset(s.stage for s in job.stages if s.state == StageStatus.STATE_RUNNING),
            attempts={(phase, step, number): attempts for phase, step, number, attempts, _ in steps},
            done=frozenset((phase, step, number) for phase, step, number, _, done in steps if done),
            in_flight=frozenset((phase, number) for phase, _, number, attempts, done in steps if attempts and not done),
        )

    async def _answers(self) -> None:
        deadline = time.monotonic() + START_SECONDS
        async with AsyncClient(self.address) as client:
            while True:
                try:
                    async for _ in getattr(client, self.look)():
                        break
                    return
                except OmnialignError:
                    assert self.process is not None
                    assert self.process.poll() is None, (self.root / "stack.log").read_text()[-4000:]
                    assert time.monotonic() < deadline, "the stack does not answer"
                    await asyncio.sleep(0.2)


async def kill_during(
    stack: StackProcess, job: Job, stage: str, *, delay_seconds: float, draw: random.Random
) -> CommittedWork:
    """Kills the stack at a random time after a stage began, starts it again, and returns what it had committed."""
    async with AsyncClient(stack.address) as client:
        async for event in client.watch_alignment_job(job.name):
            status = next(s for s in event.alignment_job.stages if s.stage == stage)
            if status.state != StageStatus.STATE_PENDING:
                break
        await asyncio.sleep(draw.uniform(0.0, delay_seconds))
    stack.kill()
    committed = stack.committed_work(job.uid)
    await stack.start()
    return committed


async def await_end(stack: StackProcess, job: Job) -> Job:
    """Waits for a job to end and returns it."""
    async with AsyncClient(stack.address) as client:
        async for event in client.watch_alignment_job(job.name):
            job = event.alignment_job
    return job


async def read_table(stack: StackProcess, job: Job, purpose: str) -> list[record_pb2.Record]:
    """The rows of one of a job's tables."""
    name = job.name.replace("/alignmentJobs/", "/datasets/") + f"-{purpose}"
    async with AsyncClient(stack.address) as client:
        return [record async for record in client.stream_records(name)]


def written_content(record: record_pb2.Record) -> list[tuple[str, ...]]:
    """What the models wrote in a record: texts and digests of media, without times."""
    return [
        tuple(part.media.sha256 if part.WhichOneof("part") == "media" else part.text for part in response.content.parts)
        for response in record.responses
    ]


def assert_nothing_redone(before_kills: Sequence[CommittedWork], final: CommittedWork) -> None:
    """Asserts that no step ran again once it was done, and that only chunks in flight were resumed."""
    for before in before_kills:
        for step in before.done:
            assert final.attempts[step] == before.attempts[step], f"{step} was done and ran again"
    for (phase, name, number), attempts in final.attempts.items():
        kills = sum((phase, number) in before.in_flight for before in before_kills)
        assert attempts <= 1 + kills, f"{(phase, name, number)} ran {attempts} times for {kills} kills"
