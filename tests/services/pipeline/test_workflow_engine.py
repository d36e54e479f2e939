"""The workflow engine on PostgreSQL: it says what is missing, and starts once it is there."""

import asyncio
from pathlib import Path
from typing import Any, cast

import pytest

from omnialign.errors import FailedPrecondition, Unavailable
from services.alignment.__main__ import AlignmentConfig
from services.pipeline import workflow_engine
from services.pipeline.workflow_engine import WorkflowEngine
from tests.postgresql import PASSWORD, PostgreSQL
from tests.service_stack import SECONDS


class Workflows:
    """Notes which jobs were run."""

    def __init__(self) -> None:
        self.jobs: asyncio.Queue[str] = asyncio.Queue()

    async def run_job(self, uid: str) -> None:
        self.jobs.put_nowait(uid)

    async def run_chunk(self, uid: str, phase: str, number: int) -> None:
        raise NotImplementedError


def config(root: Path, url: str) -> AlignmentConfig:
    names = ("data", "refinement", "critique", "judge", "training")
    addresses = cast("dict[str, Any]", {f"{name}_address": "127.0.0.1:1" for name in names})
    return AlignmentConfig(root=root, workflow_database_url=url, **addresses)


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
