"""What jobs use is kept from deletion, from before they are accepted until they have ended."""

import asyncio
import datetime
import math
from dataclasses import replace
from pathlib import Path

import pytest

from omnialign.errors import AlreadyExists, FailedPrecondition, Unavailable
from services.pipeline.config import PipelineConfig
from services.pipeline.job_store import JobStore
from tests.service_stack import Job, ServiceStack

WORLD = "projects/default/datasets/world"
NAME = "projects/default/alignmentJobs/first"


async def users(stack: ServiceStack) -> list[str]:
    return list((await stack.client.get_dataset(WORLD)).users)


async def test_what_a_job_reads_and_runs_can_be_deleted_once_it_has_ended(stack: ServiceStack) -> None:
    _, release = stack.behaviour.hold("Critique")
    job = await stack.submit()
    for delete, name in (
        (stack.client.delete_dataset, WORLD),
        (stack.client.delete_dataset_version, job.spec.dataset),
        (stack.client.delete_model_version, job.models.base),
    ):
        with pytest.raises(FailedPrecondition) as caught:
            await delete(name)
        assert caught.value.reason in ("DATASET_IN_USE", "MODEL_IN_USE")
        assert caught.value.metadata["users"] == NAME
    release.set()
    assert (await stack.end_of(job.name)).state == Job.STATE_SUCCEEDED
    await stack.client.delete_dataset(WORLD)
    await stack.client.delete_model_version(job.models.base)


async def test_a_cancelled_job_uses_nothing(stack: ServiceStack) -> None:
    stack.behaviour.hold("Critique")
    job = await stack.submit()
    await stack.alignment.cancel_alignment_job(job.name)
    assert (await stack.end_of(job.name)).state == Job.STATE_CANCELLED
    assert await users(stack) == []


@pytest.mark.parametrize("days", [0.0, 7.0])
async def test_the_tables_of_a_job_are_kept_for_as_long_as_an_operator_says(stack: ServiceStack, days: float) -> None:
    stack.settings["table_days"] = days
    await stack.stop("alignment")
    await stack.start("alignment")
    begun = datetime.datetime.now(datetime.UTC)
    job = await stack.end_of((await stack.submit()).name)
    tables = [table async for table in stack.client.list_datasets() if table.labels.get("alignment_job") == job.name]
    assert len(tables) > 4
    for table in tables:
        assert table.HasField("expire_time") == bool(days)
        assert not days or 0 <= (table.expire_time.ToDatetime(datetime.UTC) - begun).days - days < 1
    assert not (await stack.client.get_dataset(WORLD)).HasField("expire_time")


@pytest.mark.parametrize("days", [-1.0, 40_000.0, math.nan])
def test_tables_are_kept_for_a_number_of_days(tmp_path: Path, days: float) -> None:
    config = PipelineConfig(root=tmp_path)
    assert not list(config.problems())
    assert [field for field, _ in replace(config, table_days=days).problems()] == ["table_days"]


async def test_the_use_is_written_before_the_job_and_the_job_is_not_accepted_without_it(
    stack: ServiceStack, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec, seen = await stack.spec(), list[str]()

    async def dies(*_: object, **__: object) -> None:
        seen.extend(await users(stack))
        raise Unavailable("the process was killed here")

    with monkeypatch.context() as patch:
        patch.setattr(JobStore, "insert", dies)
        with pytest.raises(Unavailable):
            await stack.alignment.create_alignment_job("first", spec)
    assert set(seen) == {NAME}
    assert await users(stack) == [NAME]  # until its hour is over
    await stack.stop("alignment")
    await stack.start("alignment")
    job = await stack.alignment.create_alignment_job("first", spec)  # the caller tries again
    assert (await stack.end_of(job.name)).state == Job.STATE_SUCCEEDED
    assert await users(stack) == []


async def test_a_refused_job_uses_nothing(stack: ServiceStack) -> None:
    spec = await stack.spec()
    await stack.client.create_dataset("first-quarantine")  # the table of a job that was deleted
    with pytest.raises(AlreadyExists):
        await stack.alignment.create_alignment_job("first", spec)
    assert await users(stack) == []


async def test_a_restarted_service_says_again_what_its_jobs_use_and_made_so_far(stack: ServiceStack) -> None:
    entered, _ = stack.behaviour.hold("Critique")
    job = await stack.submit()
    await entered.wait()
    await stack.stop("alignment")
    await stack.client.end_use(job.name)  # as if it had run out, or never been said by an older release
    await stack.start("alignment")
    async with asyncio.timeout(60):
        while await users(stack) != [NAME]:
            pass
    with pytest.raises(FailedPrecondition) as caught:
        await stack.client.delete_dataset("projects/default/datasets/first-sample")
    assert caught.value.reason == "DATASET_IN_USE"
