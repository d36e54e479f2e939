"""The workflow engine and its database: it says what is missing or damaged, and goes on once it is there."""

import asyncio
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import sqlalchemy as sa

from omnialign.errors import DataLoss, FailedPrecondition, Unavailable
from services.alignment.__main__ import AlignmentConfig
from services.pipeline import workflow_engine, workflow_process
from services.pipeline.workflow_engine import WorkflowEngine
from services.runtime.database import Database
from tests.postgresql import PASSWORD, PostgreSQL
from tests.service_stack import SECONDS


class Workflows:
    """Notes which jobs were run, and which chunks are worked on, each until it is released."""

    def __init__(self) -> None:
        self.jobs: asyncio.Queue[str] = asyncio.Queue()
        self.chunks: asyncio.Queue[int] = asyncio.Queue()
        self.release = asyncio.Semaphore(0)

    async def run_job(self, uid: str) -> None:
        self.jobs.put_nowait(uid)

    async def run_chunks(self, uid: str, phase: str, numbers: Sequence[int]) -> None:
        for number in numbers:
            self.chunks.put_nowait(number)
            await self.release.acquire()


def config(root: Path, url: str, *, migrate: bool = False) -> AlignmentConfig:
    names = ("data", "refinement", "critique", "judge", "training")
    addresses = cast("dict[str, Any]", {f"{name}_address": "127.0.0.1:1" for name in names})
    return AlignmentConfig(root=root, workflow_database_url=url, migrate_at_start=migrate, **addresses)


async def test_it_starts_after_its_database_came_and_was_migrated(tmp_path: Path) -> None:
    server = PostgreSQL()
    engine, workflows = WorkflowEngine("alignment", config(tmp_path, server.url())), Workflows()
    try:
        with pytest.raises(Unavailable) as away:
            await engine.start(workflows)
        assert away.value.reason == "DATABASE_UNAVAILABLE"
        assert PASSWORD not in str(away.value)
        server.start()
        with pytest.raises(FailedPrecondition, match=r"python -m services\.migrate") as outdated:
            await engine.start(workflows)
        assert outdated.value.reason == "SCHEMA_OUTDATED"
        await asyncio.to_thread(workflow_engine.migrate, server.url())
        await engine.start(workflows)
        await engine.submit_job("some-job")
        assert await asyncio.wait_for(workflows.jobs.get(), SECONDS) == "some-job"
    finally:
        await engine.stop()
        server.close()


async def run_one_job(kind: str, uid: str, root: Path, url: str) -> None:
    """Starts a kind, and has it run one job."""
    engine, workflows = WorkflowEngine(kind, config(root, url)), Workflows()
    await engine.start(workflows)
    try:
        await engine.submit_job(uid)
        assert await asyncio.wait_for(workflows.jobs.get(), SECONDS) == uid
    finally:
        await engine.stop()


async def test_kinds_in_processes_of_their_own_share_a_database(tmp_path: Path, postgres_url: str) -> None:
    await asyncio.to_thread(workflow_engine.migrate, postgres_url)
    for uid, kind in (("first", "alignment"), ("second", "evaluation"), ("third", "alignment")):
        program = f"import asyncio, pathlib; from {__name__} import run_one_job; "
        program += f"asyncio.run(run_one_job({kind!r}, {uid!r}, pathlib.Path({str(tmp_path)!r}), {postgres_url!r}))"
        process = await asyncio.create_subprocess_exec(sys.executable, "-c", program, stderr=asyncio.subprocess.PIPE)
        _, errors = await asyncio.wait_for(process.communicate(), SECONDS)
        assert process.returncode == 0, errors.decode()


@pytest.mark.parametrize("migrate", [False, True])
async def test_lost_tables_are_said_and_made_again_by_a_service_that_may(
    tmp_path: Path, postgres_url: str, migrate: bool
) -> None:
    await asyncio.to_thread(workflow_engine.migrate, postgres_url)
    engine = WorkflowEngine("alignment", config(tmp_path, postgres_url, migrate=migrate))
    await engine.start(Workflows())
    try:
        await engine.look()
        database = Database(postgres_url)
        await database.write(lambda connection: connection.execute(sa.text("DROP SCHEMA dbos CASCADE")))
        await database.close()
        if migrate:
            await engine.look()
            assert await engine.queued() == (0, 0)
        else:
            for call in (engine.look(), engine.submit_job("some-job")):
                with pytest.raises(Unavailable, match=r"python -m services\.migrate") as missing:
                    await call
                assert missing.value.reason == "SCHEMA_MISSING"
    finally:
        await engine.stop()


def test_a_large_job_is_cut_into_larger_groups_and_a_small_one_is_left_for_others_to_share(tmp_path: Path) -> None:
    engine = WorkflowEngine("alignment", config(tmp_path, ""))
    sizes = {count: engine.group_size(count) for count in (0, 1, 15, 16, 64, 100_000)}
    assert sizes == {0: 1, 1: 1, 15: 1, 16: 2, 64: 8, 100_000: 8}
    assert [workflow_engine.group_count(count, size=4) for count in (0, 1, 4, 5)] == [0, 1, 1, 2]


async def test_chunks_that_two_threads_claim_at_once_keep_to_the_bound_of_their_job(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Either thread counts what is running before the other has claimed, so all six are claimed here."""
    one_by_one = replace(config(tmp_path, f"sqlite:///{tmp_path / 'dbos.db'}"), chunks_per_job=1)
    engine, workflows = WorkflowEngine("alignment", one_by_one), Workflows()
    await engine.start(workflows)
    running, places = workflow_process.SHARED.instance._active_workflows_set, engine._places
    claimed: asyncio.Queue[str] = asyncio.Queue()
    monkeypatch.setattr(running, "count_for_partition", lambda queue, partition: 0)

    def arrived(uid: str) -> asyncio.Semaphore:
        claimed.put_nowait(uid)
        return places(uid)

    monkeypatch.setattr(engine, "_places", arrived)
    try:
        await engine.submit_chunks("some-job", "refine", 6, size=1)
        async with asyncio.timeout(SECONDS):
            for _ in range(6):
                assert await claimed.get() == "some-job"
            tasks = list(engine._tasks.values())
            for _ in range(6):
                await workflows.chunks.get()
                assert workflows.chunks.empty()
                workflows.release.release()
            await asyncio.wait(tasks)
    finally:
        await engine.stop()


def test_a_workflow_that_is_dequeued_while_the_event_loop_stands_still_waits_for_it(tmp_path: Path) -> None:
    engine = WorkflowEngine("alignment", config(tmp_path, f"sqlite:///{tmp_path / 'dbos.db'}"))
    with asyncio.Runner() as runner:
        runner.run(engine.start(Workflows()))
        try:
            assert workflow_process.SHARED.instance._background_event_loop.target_loop() is runner.get_loop()
        finally:
            runner.run(engine.stop())


async def test_a_stop_on_sqlite_waits_for_no_long_sleep_of_the_library(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asleep: list[float] = []
    sleep = time.sleep
    monkeypatch.setattr(time, "sleep", lambda seconds: (asleep.append(seconds), sleep(seconds)))
    engine = WorkflowEngine("alignment", config(tmp_path, f"sqlite:///{tmp_path / 'dbos.db'}"))
    await engine.start(Workflows())
    await engine.stop()
    assert 0 < max(asleep) <= 0.1


async def test_a_damaged_file_is_data_loss_with_its_name_and_the_way_back(tmp_path: Path) -> None:
    path = tmp_path / "dbos.db"
    path.write_bytes(b"no database" * 1000)
    engine = WorkflowEngine("alignment", config(tmp_path, f"sqlite:///{path}"))
    with pytest.raises(DataLoss, match="put its last backup there") as damaged:
        await engine.start(Workflows())
    assert str(path) in damaged.value.message
