"""What jobs use is not deleted: on a real service, and on the stores with several writers."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save_file

from omnialign.client import AsyncClient
from omnialign.errors import FailedPrecondition, InvalidArgument, NotFound
from omnialign.v1.dataset_pb2 import Dataset
from omnialign.v1.record_pb2 import Record
from services.data.store import MIGRATIONS, Store
from services.data.uses import Uses, unless_used
from services.runtime.database import Database

PROJECT = "projects/default"
WORLD, JUDGE = f"{PROJECT}/datasets/world", f"{PROJECT}/models/judge/versions/1"
JOB, CAMPAIGN = f"{PROJECT}/alignmentJobs/learns", f"{PROJECT}/campaigns/people"
NO_TIME = 1e-6


@pytest.fixture
async def filled(client: AsyncClient, tmp_path: Path) -> AsyncClient:
    """A client of a service with two versions of a dataset, and a model."""
    await client.create_dataset("world")
    for record in ("first", "second"):
        await client.append_records(WORLD, [Record(id=record, subtask="t2t", split="train")])
        await client.commit_version(WORLD)
    folder = tmp_path / "judge"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    save_file({"weight": np.zeros(2, np.float32)}, folder / "model.safetensors")
    await client.register_model("judge", folder.as_uri())
    return client


Delete = Callable[..., Awaitable[None]]


def deletion(client: AsyncClient, name: str) -> Delete:
    if "/models/" in name:
        return client.delete_model_version
    return client.delete_dataset_version if "/versions/" in name else client.delete_dataset


@pytest.mark.parametrize(
    ("used", "deleted"),
    [
        (WORLD, WORLD),
        (f"{WORLD}/versions/1", WORLD),
        (f"{WORLD}/versions/1", f"{WORLD}/versions/1"),
        (f"{WORLD}/versions/-", f"{WORLD}/versions/2"),
        (JUDGE, JUDGE),
        (f"{PROJECT}/models/judge", JUDGE),
    ],
)
async def test_what_is_in_use_is_deleted_only_by_force(filled, used, deleted):
    delete = deletion(filled, deleted)
    await filled.begin_use(JOB, [used], ttl_seconds=60)
    await filled.begin_use(CAMPAIGN, [used], ttl_seconds=60)
    with pytest.raises(FailedPrecondition) as caught:
        await delete(deleted)
    assert caught.value.reason == ("MODEL_IN_USE" if "/models/" in deleted else "DATASET_IN_USE")
    assert caught.value.metadata == {"name": deleted, "users": f"{JOB},{CAMPAIGN}"}
    assert f"{deleted} is in use by {JOB}, {CAMPAIGN}" in caught.value.message
    await delete(deleted, force=True)
    with pytest.raises(NotFound):
        await delete(deleted)


async def test_a_version_beside_the_one_in_use_may_go(filled):
    await filled.begin_use(JOB, [f"{WORLD}/versions/1"], ttl_seconds=60)
    await filled.delete_dataset_version(f"{WORLD}/versions/2", force=False)
    assert [version.name async for version in filled.list_dataset_versions(WORLD)] == [f"{WORLD}/versions/1"]


async def test_a_use_ends_when_that_is_said_or_its_time_is_over_and_is_never_shortened(filled):
    await filled.begin_use(JOB, [WORLD, JUDGE], ttl_seconds=60)
    await filled.begin_use(JOB, [WORLD], ttl_seconds=NO_TIME)
    await filled.begin_use(CAMPAIGN, [WORLD], ttl_seconds=NO_TIME)
    with pytest.raises(FailedPrecondition) as caught:
        await filled.delete_dataset(WORLD)
    assert caught.value.metadata["users"] == JOB
    for _ in range(2):
        await filled.end_use(JOB)
    await filled.delete_dataset(WORLD)
    await filled.delete_model_version(JUDGE)


async def test_datasets_and_models_name_their_users_which_are_not_stored_with_them(filled):
    await filled.begin_use(JOB, [f"{WORLD}/versions/1", f"{WORLD}/versions/2", JUDGE], ttl_seconds=60)
    found = [await filled.get_dataset(WORLD), *[one async for one in filled.list_datasets()]]
    found += [await filled.get_model_version(JUDGE), *[one async for one in filled.list_model_versions()]]
    assert [list(one.users) for one in found] == [[JOB]] * 4
    await filled.end_use(JOB)
    assert not (await filled.get_dataset(WORLD)).users
    assert not (await filled.get_model_version(JUDGE)).users


@pytest.mark.parametrize(
    "missing", ["datasets/wrold", "datasets/world/versions/7", "models/typo", "models/a/versions/1"]
)
async def test_what_does_not_exist_is_not_used_and_nothing_else_of_the_call_unless_that_is_wanted(filled, missing):
    used = [WORLD, f"{PROJECT}/{missing}"]
    with pytest.raises(NotFound):
        await filled.begin_use(JOB, used, ttl_seconds=60)
    assert not (await filled.get_dataset(WORLD)).users
    await filled.begin_use(JOB, used, ttl_seconds=60, allow_missing=True)
    assert list((await filled.get_dataset(WORLD)).users) == [JOB]


@pytest.mark.parametrize(
    ("name", "seconds", "reason"),
    [
        (JOB, 60, "RESOURCE_NAME_INVALID"),
        (f"{WORLD}/versions/new", 60, "RESOURCE_NAME_INVALID"),
        (WORLD, 0, "REQUEST_INVALID"),
        (WORLD, 31 * 86_400, "REQUEST_INVALID"),
    ],
)
async def test_a_use_of_something_else_and_one_without_a_time_are_refused(filled, name, seconds, reason):
    with pytest.raises(InvalidArgument) as caught:
        await filled.begin_use(JOB, [name], ttl_seconds=seconds)
    assert caught.value.reason == reason


async def test_a_new_dataset_that_has_the_name_of_one_that_was_used_is_not_in_use(filled):
    await filled.begin_use(JOB, [f"{WORLD}/versions/1"], ttl_seconds=60)
    await filled.delete_dataset(WORLD, force=True)
    assert not (await filled.create_dataset("world")).users
    await filled.delete_dataset(WORLD)


@pytest.fixture
async def databases(database_url: str) -> AsyncIterator[list[Database]]:
    opened = [Database(database_url) for _ in range(2)]
    await opened[0].write(MIGRATIONS.upgrade)
    yield opened
    for database in opened:
        await database.close()


async def test_of_a_use_that_begins_and_a_deletion_at_the_same_time_one_wins(databases):
    store, uses = Store(databases[0]), Uses(databases[1])
    outcomes = set[tuple[str, str]]()
    for number in range(20):
        name = f"{PROJECT}/datasets/d{number}"
        await store.add_dataset(Dataset(name=name), parent=PROJECT, created_us=1, key="", digest="")
        calls = [uses.begin(JOB, [name], seconds=60), store.remove_dataset(name, before=unless_used(name, force=False))]
        used, removed = await asyncio.gather(*(calls if number % 2 else reversed(calls)), return_exceptions=True)
        used, removed = (used, removed) if number % 2 else (removed, used)
        assert isinstance(used, NotFound) != isinstance(removed, FailedPrecondition), (used, removed)
        assert ((await store.dataset(name)) is None) == (removed is True)
        outcomes.add((type(used).__name__, type(removed).__name__))
    assert outcomes <= {("NotFound", "bool"), ("NoneType", "FailedPrecondition")}


async def test_uses_whose_time_is_over_are_removed(databases):
    store, uses = Store(databases[0]), Uses(databases[1])
    await store.add_dataset(Dataset(name=WORLD), parent=PROJECT, created_us=1, key="", digest="")
    await uses.begin(JOB, [WORLD], seconds=0)
    await uses.begin(CAMPAIGN, [WORLD], seconds=60)
    assert [await uses.forget_expired() for _ in range(2)] == [1, 0]
    assert await uses.users([WORLD]) == {WORLD: [CAMPAIGN]}
