"""What the data service keeps of datasets, models and lineage, on SQLite and on PostgreSQL, with several writers."""

import asyncio

import pytest

from omnialign.errors import InvalidArgument
from omnialign.v1.data_service_pb2 import LineageEdge
from omnialign.v1.dataset_pb2 import Dataset, DatasetVersion
from services.data.store import MIGRATIONS, Store
from services.data.uses import unless_used
from services.runtime.database import Database

PARENT = "projects/default"
NAME = f"{PARENT}/datasets/world"


@pytest.fixture
async def stores(database_url):
    databases = Database(database_url), Database(database_url)
    await databases[0].write(MIGRATIONS.upgrade)
    yield tuple(map(Store, databases))
    for database in databases:
        await database.close()


async def add(store, name=NAME, *, key="", created_us=1):
    return await store.add_dataset(Dataset(name=name), parent=PARENT, created_us=created_us, key=key, digest="d")


async def test_of_two_writers_of_a_name_one_wins(stores):
    assert sorted(await asyncio.gather(*(add(store) for store in stores))) == [False, True]


async def test_of_two_writers_of_a_request_one_wins_and_the_other_leaves_nothing(stores):
    added = await asyncio.gather(*(add(store, f"{NAME}-{n}", key="once") for n, store in enumerate(stores)))
    assert sorted(added) == [False, True]
    assert (await stores[0].request("once")) == ("d", f"{NAME}-{added.index(True)}")
    assert len(await stores[0].datasets(PARENT, after=[], limit=9)) == 1


async def test_a_version_number_is_given_once_and_goes_with_its_dataset(stores):
    await add(stores[0])
    versions = [
        store.add_version(NAME, DatasetVersion(name=f"{NAME}/versions/1"), number=1, state=5) for store in stores
    ]
    assert sorted(await asyncio.gather(*versions)) == [False, True]
    dataset = await stores[1].dataset(NAME)
    assert dataset is not None and dataset.latest_version == 1
    assert await stores[1].remove_dataset(NAME, before=unless_used(NAME, force=False))
    assert not await stores[1].remove_dataset(NAME, before=unless_used(NAME, force=False))
    assert not await stores[0].add_version(NAME, DatasetVersion(), number=2, state=5)


async def test_pages_of_datasets_are_newest_first(stores):
    for number in range(3):
        await add(stores[0], f"{NAME}-{number}", created_us=number)
    first = await stores[1].datasets(PARENT, after=[], limit=2)
    rest = await stores[1].datasets(PARENT, after=[str(first[-1][0]), first[-1][1].name], limit=2)
    assert [us for us, _ in (*first, *rest)] == [2, 1, 0]


async def test_edges_written_by_several_at_once_are_there_once(stores):
    edges = [LineageEdge(source=f"s{i % 7}", target=f"t{i}", relation="made") for i in range(60)]
    await asyncio.gather(
        *(store.add_edges(PARENT, edges[n::1] if n % 2 else edges[::-1]) for n, store in enumerate(stores * 4))
    )
    found = await stores[0].edges(PARENT, [f"s{i}" for i in range(7)], upwards=False)
    assert sorted(edge.target for edge in found) == sorted(edge.target for edge in edges)


async def test_a_text_that_postgresql_does_not_take_is_the_callers_mistake(postgres_url):
    database = Database(postgres_url)
    await database.write(MIGRATIONS.upgrade)
    for source in ("x" * 2000, "nul\0"):
        with pytest.raises(InvalidArgument, match="too long for the database or not valid text"):
            await Store(database).add_edges(PARENT, [LineageEdge(source=source, target="t", relation="made")])
    await database.close()
