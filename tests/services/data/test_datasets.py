"""Datasets over gRPC: creation, appends, versions, streams, deletion."""

import asyncio
import uuid
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import grpc
import pytest
from prometheus_client import CollectorRegistry

from omnialign import names
from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.errors import AlreadyExists, InvalidArgument, NotFound, ResourceExhausted
from omnialign.v1 import data_service_pb2 as pb
from omnialign.v1 import data_service_pb2_grpc, record_pb2
from omnialign.v1.dataset_pb2 import Dataset
from services.data.config import DataConfig
from services.data.datasets import Datasets
from services.data.objects import LocalObjectStore
from services.data.selection import Selection
from services.data.store import Store
from services.data.usage import Usage, UsageMetrics
from services.data.uses import Uses
from services.runtime.database import Database
from services.runtime.limits import Quotas

NAME = "projects/default/datasets/prompts"


def records(count: int, text: str = "hello", first: int = 0) -> list[record_pb2.Record]:
    return [
        record_pb2.Record(id=f"r{number:05d}", subtask="t2t", split="train", prompt=content(text))
        for number in range(first, first + count)
    ]


async def ids(client: AsyncClient, source: str, **filters: Any) -> list[str]:
    return [record.id async for record in client.stream_records(source, **filters)]


async def test_a_dataset_tells_what_it_holds(client: AsyncClient) -> None:
    created = await client.create_dataset("prompts", display_name="Prompts", labels={"team": "a"})
    assert (created.name, created.display_name, dict(created.labels)) == (NAME, "Prompts", {"team": "a"})
    assert created.uid
    assert created.create_time.seconds
    answer = await client.append_records(NAME, records(3))
    assert (answer.inserted_count, answer.updated_count) == (3, 0)
    await client.commit_version(NAME)
    found = await client.get_dataset(NAME)
    assert (found.record_count, found.latest_version, found.uid) == (3, 1, created.uid)


async def test_a_rationale_without_a_score_is_no_record(client: AsyncClient) -> None:
    await client.create_dataset("prompts")
    (draft,) = records(1)
    draft.responses.add().feedback.scores.add(dimension="clarity", rationale="unclear", unscored=True)
    with pytest.raises(InvalidArgument, match="'clarity'") as caught:
        await client.append_records(NAME, [draft])
    assert caught.value.reason == "RECORD_UNSCORED"


async def test_a_repeated_create_gives_the_first_answer_and_another_body_is_refused(client: AsyncClient) -> None:
    request_id = str(uuid.uuid4())
    first = await client.create_dataset("prompts", display_name="a", request_id=request_id)
    again = await client.create_dataset("prompts", display_name="a", request_id=request_id)
    assert first == again
    with pytest.raises(InvalidArgument) as reused:
        await client.create_dataset("prompts", display_name="b", request_id=request_id)
    assert reused.value.reason == "REQUEST_ID_REUSED"
    with pytest.raises(AlreadyExists) as taken:
        await client.create_dataset("prompts")
    assert taken.value.reason == "DATASET_EXISTS"


async def test_concurrent_equal_creates_are_one(client: AsyncClient) -> None:
    request_id = str(uuid.uuid4())
    made = await asyncio.gather(*(client.create_dataset("prompts", request_id=request_id) for _ in range(6)))
    assert len({dataset.uid for dataset in made}) == 1


@pytest.mark.parametrize("name", ["projects/p", "datasets/x", "projects/default/datasets/..", "x/y/z/w"])
async def test_a_name_of_another_shape_is_refused(client: AsyncClient, name: str) -> None:
    with pytest.raises(InvalidArgument) as caught:
        await client.get_dataset(name)
    assert caught.value.reason == "RESOURCE_NAME_INVALID"


async def test_what_is_not_there_is_not_found(client: AsyncClient) -> None:
    for call in (
        client.get_dataset(NAME),
        client.append_records(NAME, records(1)),
        client.commit_version(NAME),
        client.delete_dataset(NAME),
        ids(client, NAME),
        ids(client, f"{NAME}/versions/1"),
        client.get_dataset_version(f"{NAME}/versions/-"),
    ):
        with pytest.raises(NotFound) as caught:
            await call
        assert caught.value.reason == "DATASET_NOT_FOUND"
    await client.create_dataset("prompts")
    for number, message in (("-", f"{NAME} has no version."), ("7", f"There is no {NAME}/versions/7.")):
        with pytest.raises(NotFound) as caught:
            await client.get_dataset_version(f"{NAME}/versions/{number}")
        assert (caught.value.reason, caught.value.message) == ("DATASET_VERSION_NOT_FOUND", message)


async def test_versions_never_change_and_the_same_head_is_the_same_version(client: AsyncClient) -> None:
    await client.create_dataset("prompts")
    await client.append_records(NAME, records(10))
    first = await client.commit_version(NAME)
    assert (first.name, first.record_count, dict(first.subtask_counts)) == (f"{NAME}/versions/1", 10, {"t2t": 10})
    await client.append_records(NAME, records(10))
    assert await client.commit_version(NAME) == first
    await client.append_records(NAME, records(15, "changed"))
    second = await client.commit_version(NAME)
    assert (second.name, second.record_count) == (f"{NAME}/versions/2", 15)
    old = [record async for record in client.stream_records(first.name)]
    assert old == records(10)
    assert await client.get_dataset_version(f"{NAME}/versions/-") == second
    assert [version.name async for version in client.list_dataset_versions(NAME)] == [second.name, first.name]


async def test_versions_survive_the_compaction_of_many_small_writes(serving: Any, tmp_path: Path) -> None:
    async with serving(tmp_path, compact_fragments=4, retention_seconds=0) as client:
        await client.create_dataset("prompts")
        for number in range(12):
            await client.append_records(NAME, records(1, first=number))
            if number == 5:
                version = await client.commit_version(NAME)
        assert len(await ids(client, version.name)) == 6
        assert len(await ids(client, NAME)) == 12


async def test_a_head_that_is_rewritten_while_it_is_read_is_read_to_its_end(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'data.db'}", migrate=True)
    config = DataConfig(root=tmp_path, retention_seconds=0, compact_fragments=1)
    with ThreadPoolExecutor(2) as pool:
        store = Store(database)
        await store.prepare()
        usage = Usage(database, quotas=Quotas(), metrics=UsageMetrics(CollectorRegistry()))
        objects, uses = LocalObjectStore(tmp_path), Uses(database)
        datasets = Datasets(config, store=store, objects=objects, pool=pool, usage=usage, uses=uses)
        await datasets.create("projects/default", "prompts", Dataset(), key="", digest="")
        await datasets.append(NAME, records(12, text="x" * 200_000))
        seen = []
        async for batch in datasets.stream(NAME, Selection(limit=10)):
            seen += [record.id for record in batch]
            await datasets.append(NAME, records(2, text=f"later {len(seen)}"))
            await datasets.upkeep.settle()
        assert seen == [record.id for record in records(10)]
    await database.close()


async def test_concurrent_appends_and_commits_lose_nothing(client: AsyncClient) -> None:
    await client.create_dataset("prompts")

    async def write(writer: int) -> None:
        await client.append_records(NAME, records(50, f"w{writer}", first=writer * 25))
        await client.commit_version(NAME)

    await asyncio.gather(*(write(writer) for writer in range(6)))
    assert await ids(client, NAME) == [record.id for record in records(175)]
    versions = [version async for version in client.list_dataset_versions(NAME)]
    assert [names.id_of(version.name) for version in versions] == [str(n) for n in range(len(versions), 0, -1)]


async def test_shards_filters_and_limits_reach_the_table(client: AsyncClient) -> None:
    await client.create_dataset("prompts")
    await client.append_records(NAME, records(60))
    shards = [await ids(client, NAME, shard_index=index, shard_count=4) for index in range(4)]
    assert sorted(name for shard in shards for name in shard) == [record.id for record in records(60)]
    assert await ids(client, NAME, splits=["test"]) == []
    assert await ids(client, NAME, ids=["r00007"], subtasks=["t2t"]) == ["r00007"]
    assert await ids(client, NAME, limit=5) == [record.id for record in records(5)]
    with pytest.raises(InvalidArgument) as caught:
        await ids(client, NAME, shard_index=4, shard_count=4)
    assert caught.value.reason == "SHARD_INVALID"


async def test_a_stream_larger_than_a_message_arrives_whole(client: AsyncClient) -> None:
    await client.create_dataset("prompts")
    await client.append_records(NAME, records(300, "x" * 20_000))
    assert len(await ids(client, NAME)) == 300


async def test_a_deleted_dataset_is_gone_and_its_id_is_free(client: AsyncClient, tmp_path: Path) -> None:
    await client.create_dataset("prompts")
    await client.append_records(NAME, records(3))
    await client.commit_version(NAME)
    await client.delete_dataset(NAME)
    with pytest.raises(NotFound):
        await client.get_dataset(NAME)
    assert not list((tmp_path / "state" / "lance").rglob("*.lance"))
    await client.create_dataset("prompts")
    assert await ids(client, NAME) == []


async def test_datasets_are_listed_newest_first_in_pages(client: AsyncClient) -> None:
    names = [(await client.create_dataset(f"d{number}")).name for number in range(5)]
    assert [dataset.name async for dataset in client.list_datasets()] == names[::-1]
    stub = data_service_pb2_grpc.DataServiceStub(client._transport.channel)
    page = await stub.ListDatasets(pb.ListDatasetsRequest(parent="projects/default", page_size=3))
    assert [dataset.name for dataset in page.datasets] == names[:1:-1]
    rest = pb.ListDatasetsRequest(parent="projects/default", page_size=3, page_token=page.next_page_token)
    last = await stub.ListDatasets(rest)
    assert ([dataset.name for dataset in last.datasets], last.next_page_token) == (names[1::-1], "")
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await stub.ListDatasets(pb.ListDatasetsRequest(parent="projects/default", page_token="nonsense"))
    assert caught.value.code() == grpc.StatusCode.INVALID_ARGUMENT


async def test_one_call_cannot_hold_more_than_its_limit(serving: Any, tmp_path: Path) -> None:
    async with serving(tmp_path, max_append_bytes=10_000) as client:
        await client.create_dataset("prompts")
        with pytest.raises(ResourceExhausted) as caught:
            await client.append_records(NAME, records(20, "x" * 1000))
        assert caught.value.reason == "APPEND_TOO_LARGE"
        assert await ids(client, NAME) == []


async def test_everything_is_there_after_a_restart(serving: Any, tmp_path: Path) -> None:
    async with serving(tmp_path) as client:
        await client.create_dataset("prompts")
        await client.append_records(NAME, records(3))
        version = await client.commit_version(NAME)
    async with serving(tmp_path) as client:
        assert await ids(client, version.name) == [record.id for record in records(3)]
        assert (await client.get_dataset(NAME)).latest_version == 1
