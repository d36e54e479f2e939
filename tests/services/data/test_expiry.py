"""Datasets that expire: said at creation and later, and removed once nobody uses them."""

import asyncio
import datetime
from collections.abc import AsyncIterator

import pytest
from google.protobuf.timestamp_pb2 import Timestamp

from omnialign.client import AsyncClient
from omnialign.errors import FailedPrecondition, InvalidArgument, NotFound
from omnialign.v1.dataset_pb2 import Dataset
from omnialign.v1.record_pb2 import Record
from services.data.expiry import change_to, unless_kept
from services.data.store import MIGRATIONS, Store, now_us
from services.runtime.database import Database

PROJECT = "projects/default"
WORLD, JOB = f"{PROJECT}/datasets/world", f"{PROJECT}/alignmentJobs/learns"
SOON, DAY = datetime.timedelta(milliseconds=1), datetime.timedelta(days=1)


def in_days(days: float) -> Timestamp:
    moment = Timestamp()
    moment.FromMicroseconds(now_us() + int(days * 86_400e6))
    return moment


def days_left(dataset: Dataset) -> float:
    return (dataset.expire_time.ToMicroseconds() - now_us()) / 86_400e6


async def test_a_time_to_live_becomes_the_moment_when_it_is_over(client: AsyncClient) -> None:
    created = await client.create_dataset("world", ttl=DAY)
    assert created.WhichOneof("expiration") == "expire_time" and 0.9 < days_left(created) <= 1
    assert await client.get_dataset(WORLD) == created
    assert [dataset.expire_time async for dataset in client.list_datasets()] == [created.expire_time]
    assert not (await client.create_dataset("other")).HasField("expire_time")


async def test_it_is_changed_and_taken_away_and_nothing_else_with_it(client: AsyncClient) -> None:
    created = await client.create_dataset("world", display_name="The world", labels={"by": "us"}, ttl=DAY)
    moment = in_days(7)
    changed = await client.update_dataset(Dataset(name=WORLD, expire_time=moment), ["expire_time"])
    assert (changed.expire_time, changed.display_name, changed.labels) == (moment, "The world", {"by": "us"})
    longer = Dataset(name=WORLD)
    longer.ttl.FromTimedelta(30 * DAY)
    assert days_left(await client.update_dataset(longer, ["ttl"])) > 29
    named = await client.update_dataset(Dataset(name=WORLD, display_name="Earth"), ["display_name"])
    assert (named.display_name, named.uid) == ("Earth", created.uid) and days_left(named) > 29
    for field in ("expire_time", "ttl"):
        assert not (await client.update_dataset(Dataset(name=WORLD), [field])).HasField("expire_time")


@pytest.mark.parametrize(
    ("wanted", "fields", "reason"),
    [
        (Dataset(name=WORLD, expire_time=Timestamp(seconds=1)), ["expire_time"], "EXPIRE_TIME_PAST"),
        (Dataset(name=WORLD), ["ttl", "labels"], "UPDATE_MASK_INVALID"),
        (Dataset(name=WORLD), [], "UPDATE_MASK_INVALID"),
        (Dataset(name=f"{WORLD}/versions/1"), ["ttl"], "RESOURCE_NAME_INVALID"),
        (Dataset(name=f"{PROJECT}/datasets/wrold"), ["ttl"], "DATASET_NOT_FOUND"),
    ],
)
async def test_what_cannot_be_changed_is_refused(client, wanted, fields, reason):
    await client.create_dataset("world", ttl=DAY)
    with pytest.raises((InvalidArgument, NotFound)) as caught:
        await client.update_dataset(wanted, fields)
    assert caught.value.reason == reason
    assert days_left(await client.get_dataset(WORLD)) > 0.9


@pytest.mark.parametrize("seconds", [0, -1, 11 * 365 * 86_400])
async def test_a_time_to_live_is_some_time_and_not_more_than_ten_years(client, seconds):
    with pytest.raises(InvalidArgument):
        await client.create_dataset("world", ttl=datetime.timedelta(seconds=seconds))


async def is_gone(client: AsyncClient, name: str) -> None:
    """Returns when a dataset is gone."""
    async with asyncio.timeout(60):
        while True:
            try:
                await client.get_dataset(name)
            except NotFound:
                return


async def test_what_has_expired_goes_but_for_what_is_in_use_until_that_has_ended(serving, tmp_path) -> None:
    names = {name: f"{PROJECT}/datasets/{name}" for name in ("used", "expired", "later", "kept")}
    async with serving(tmp_path) as client:  # it sweeps once an hour
        for name, ttl in (("used", SOON), ("expired", SOON), ("later", DAY), ("kept", None)):
            await client.create_dataset(name, ttl=ttl)
            await client.append_records(names[name], [Record(id="first", subtask="t2t", split="train")])
            version = await client.commit_version(names[name])
            if name == "used":
                await client.begin_use(JOB, [version.name], ttl_seconds=600)
    async with serving(tmp_path, sweep_seconds=0.05) as client:
        await is_gone(client, names["expired"])  # after "used", which expired before it, was looked at
        assert [one.name async for one in client.list_datasets()] == [names[name] for name in ("kept", "later", "used")]
        assert [record.id async for record in client.stream_records(names["used"])] == ["first"]
        await client.end_use(JOB)
        await is_gone(client, names["used"])
        assert [one.name async for one in client.list_datasets()] == [names[name] for name in ("kept", "later")]


@pytest.fixture
async def stores(database_url: str) -> AsyncIterator[list[Store]]:
    databases = [Database(database_url) for _ in range(2)]
    await databases[0].write(MIGRATIONS.upgrade)
    yield [Store(database) for database in databases]
    for database in databases:
        await database.close()


async def test_a_dataset_that_is_given_more_time_just_before_it_is_removed_stays(stores: list[Store]) -> None:
    dataset = Dataset(name=WORLD, expire_time=in_days(-1))
    await stores[0].add_dataset(dataset, parent=PROJECT, created_us=1, key="", digest="")
    assert await stores[1].expired_datasets() == [WORLD]
    for wanted in (Dataset(name=WORLD, expire_time=in_days(1)), Dataset(name=WORLD)):
        assert await stores[0].change_dataset(WORLD, change_to(wanted, ["expire_time"]))
        with pytest.raises(FailedPrecondition) as caught:
            await stores[1].remove_dataset(WORLD, before=unless_kept(WORLD))
        assert caught.value.reason == "DATASET_KEPT"
        assert await stores[1].expired_datasets() == []


async def test_two_replicas_remove_an_expired_dataset_once(stores: list[Store]) -> None:
    dataset = Dataset(name=WORLD, expire_time=in_days(-1))
    await stores[0].add_dataset(dataset, parent=PROJECT, created_us=1, key="", digest="")
    removals = [store.remove_dataset(WORLD, before=unless_kept(WORLD)) for store in stores]
    done = await asyncio.gather(*removals, return_exceptions=True)
    assert sum(one is True for one in done) == 1, done
