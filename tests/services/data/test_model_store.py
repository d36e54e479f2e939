"""Model versions and their shared files, on SQLite and on PostgreSQL, with two replicas."""

import asyncio

import pytest

from omnialign.v1.model_pb2 import ModelVersion
from services.data.model_store import ModelStore
from services.data.store import MIGRATIONS, now_us
from services.data.uses import unless_used
from services.runtime.database import Database

PARENT = "projects/default"
MODEL = f"{PARENT}/models/base"


@pytest.fixture
async def stores(database_url):
    databases = Database(database_url), Database(database_url)
    await databases[0].write(MIGRATIONS.upgrade)
    yield tuple(map(ModelStore, databases))
    for database in databases:
        await database.close()


def name_of(number):
    return f"{MODEL}/versions/{number}"


def unused(number: int):
    return unless_used(name_of(number), force=False)


async def add(store, number, *, sha256="", base=""):
    version = ModelVersion(name=name_of(number), sha256=sha256, lora_base=base)
    return await store.add(version, model=MODEL, number=number, created_us=7)


async def test_pages_are_newest_first_and_leave_out_what_was_deleted(stores):
    for number in range(4):
        await add(stores[0], number)
    assert await stores[1].delete(name_of(2), model=MODEL, number=2, before=unused(2))
    first = await stores[1].page(PARENT, after=[], limit=2)
    rest = await stores[1].page(PARENT, after=first[-1][0], limit=2)
    assert [version.name[-1] for _, version in (*first, *rest)] == ["3", "1", "0"]


async def test_the_number_of_a_deleted_version_is_not_given_again(stores):
    for number in (1, 2):
        assert await add(stores[0], number)
    deleted = await asyncio.gather(
        *(store.delete(name_of(2), model=MODEL, number=2, before=unused(2)) for store in stores)
    )
    assert sorted(deleted) == [False, True]
    assert (await stores[1].find(MODEL, None)).name == name_of(1)
    assert await stores[1].find(MODEL, 2) is None
    assert await stores[1].last_number(MODEL) == 2
    assert not await add(stores[0], 2)


async def test_the_loras_of_a_version_are_found(stores):
    await add(stores[0], 1)
    await add(stores[0], 2, base=name_of(1))
    assert await stores[1].loras_of(name_of(1)) == [name_of(2)]
    await stores[0].delete(name_of(2), model=MODEL, number=2, before=unused(2))
    assert await stores[1].loras_of(name_of(1)) == []


async def test_files_are_removed_once_no_version_has_them_and_nobody_registers_them(stores):
    assert await stores[0].claim_files("shared")
    await add(stores[0], 1, sha256="shared")
    assert not await stores[1].begin_removal("shared", claimed_before_us=now_us()), "a version has them"
    await stores[1].delete(name_of(1), model=MODEL, number=1, before=unused(1))
    assert not await stores[1].begin_removal("shared", claimed_before_us=now_us() - 10**9), "they were claimed of late"
    assert await stores[0].unneeded_files(claimed_before_us=now_us()) == ["shared"]
    assert await stores[0].begin_removal("shared", claimed_before_us=now_us())
    assert not await stores[1].claim_files("shared"), "they are being removed"
    await stores[0].end_removal("shared")
    assert await stores[1].claim_files("shared")


async def test_of_a_claim_and_a_removal_at_once_one_wins(stores):
    for attempt in range(10):
        await stores[0].claim_files(f"{attempt}")
        before_us = now_us()
        claimed, removed = await asyncio.gather(
            stores[0].claim_files(f"{attempt}"), stores[1].begin_removal(f"{attempt}", claimed_before_us=before_us)
        )
        assert claimed != removed
