"""What the garbage collector removes, and what it leaves, through the service."""

import asyncio
import base64
import json
import sqlite3
import tempfile
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from omnialign.client import AsyncClient
from omnialign.content import content, media_of
from omnialign.errors import DeadlineExceeded, FailedPrecondition, NotFound, Unavailable
from omnialign.v1 import content_pb2, data_service_pb2, record_pb2
from services.data.garbage.condemned import LEAST_CLAIM_SECONDS
from tests.integration.data_service import png_bytes, serve_data

IMAGE = content_pb2.MODALITY_IMAGE
AT_ONCE: dict[str, Any] = {"garbage_grace_seconds": 0.0}
SOON = {**AT_ONCE, "unnamed_media_seconds": 1e-6}


async def upload(client: AsyncClient, *seeds: int) -> list[content_pb2.Media]:
    return [await client.upload_media(png_bytes(seed, side=8), modality=IMAGE) for seed in seeds]


def naming(record_id: str, *media: content_pb2.Media) -> record_pb2.Record:
    return record_pb2.Record(id=record_id, subtask="ti2t", prompt=content("x", *media))


async def dataset_of(client: AsyncClient, name: str, records: Sequence[record_pb2.Record]) -> str:
    found = await client.create_dataset(name)
    await client.append_records(found.name, records)
    await client.commit_version(found.name)
    return str(found.name)


async def collect(client: AsyncClient, *, dry_run: bool = False) -> data_service_pb2.CollectGarbageResponse:
    return [done async for done in client.collect_garbage(dry_run=dry_run)][-1]


async def there(client: AsyncClient, media: Sequence[content_pb2.Media]) -> list[bool]:
    found = []
    for medium in media:
        try:
            found.append(len(await client.get_media(medium.sha256)) == medium.size_bytes)
        except NotFound:
            found.append(False)
    return found


async def test_media_go_with_the_last_dataset_that_names_them(tmp_path: Path) -> None:
    async with serve_data(tmp_path, **AT_ONCE) as client:
        media = await upload(client, 1, 2, 3)
        one = await dataset_of(client, "one", [naming("a", *media[:2])])
        two = await dataset_of(client, "two", [naming("a", *media[1:])])
        assert (await collect(client)).removed_count == 0
        await client.delete_dataset(one)
        done = await collect(client)
        assert (done.removed_count, done.freed_bytes) == (1, media[0].size_bytes)
        assert await there(client, media) == [False, True, True]
        await client.delete_dataset(two)
        await collect(client)
        assert await there(client, media) == [False, False, False]


async def test_media_that_nobody_names_go_once_their_time_is_over(tmp_path: Path) -> None:
    async with serve_data(tmp_path / "long", **AT_ONCE) as client:
        media = await upload(client, 1)
        await collect(client)
        assert await there(client, media) == [True]
    async with serve_data(tmp_path / "short", **SOON) as client:
        media = await upload(client, 1)
        await collect(client)
        assert await there(client, media) == [False]
        assert await there(client, await upload(client, 1)) == [True]  # the same bytes may come again


async def test_grace_period_keeps_what_lost_its_last_name_just_now(tmp_path: Path) -> None:
    async with serve_data(tmp_path, garbage_grace_seconds=3600.0) as client:
        media = await upload(client, 1)
        await client.delete_dataset(await dataset_of(client, "one", [naming("a", *media)]))
        done = await collect(client)
        assert (done.condemned_count, done.removed_count) == (1, 0)
        assert (await collect(client)).condemned_count == 0  # it is known by now
        assert await there(client, media) == [True]


async def test_what_deleted_versions_and_replaced_records_named_goes(tmp_path: Path) -> None:
    async with serve_data(tmp_path, **AT_ONCE) as client:
        media = await upload(client, 1, 2, 3)
        name = await dataset_of(client, "one", [naming("a", media[0])])
        await client.append_records(name, [naming("a", media[1])])
        await client.append_records(name, [naming("a", media[2])])  # media[1] is in no version
        await client.commit_version(name)
        await collect(client)
        assert await there(client, media) == [True, False, True]
        await client.delete_dataset_version(f"{name}/versions/1", force=True)
        await collect(client)
        assert await there(client, media) == [False, False, True]


async def test_number_of_a_deleted_version_is_not_given_again(tmp_path: Path) -> None:
    async with serve_data(tmp_path) as client:
        name = await dataset_of(client, "one", [naming("a")])
        await client.append_records(name, [naming("b")])
        assert (await client.commit_version(name)).name == f"{name}/versions/2"
        await client.delete_dataset_version(f"{name}/versions/2")
        assert (await client.get_dataset(name)).latest_version == 1
        assert (await client.commit_version(name)).name == f"{name}/versions/3"
        with pytest.raises(NotFound):
            await client.get_dataset_version(f"{name}/versions/2")
        with pytest.raises(NotFound):
            await client.delete_dataset_version(f"{name}/versions/2")


async def test_version_that_something_was_made_from_is_only_deleted_by_force(tmp_path: Path) -> None:
    async with serve_data(tmp_path) as client:
        name = await dataset_of(client, "one", [naming("a")])
        model = "projects/default/models/m/versions/1"
        edge = data_service_pb2.LineageEdge(source=f"{name}/versions/1", target=model, relation="trained_on")
        await client.add_lineage([edge])
        with pytest.raises(FailedPrecondition, match=model) as error:
            await client.delete_dataset_version(f"{name}/versions/1")
        assert error.value.reason == "HAS_DEPENDENTS"
        await client.delete_dataset_version(f"{name}/versions/1", force=True)
        with pytest.raises(NotFound):
            [record async for record in client.stream_records(f"{name}/versions/1")]


async def test_dry_run_counts_and_changes_nothing(tmp_path: Path) -> None:
    async with serve_data(tmp_path, **SOON) as client:
        media = await upload(client, 1)
        done = await collect(client, dry_run=True)
        assert (done.examined_count, done.condemned_count, done.removed_count) == (1, 1, 0)
        assert await there(client, media) == [True]
        assert (await collect(client)).condemned_count == 1


async def test_datasets_of_an_older_release_are_counted_before_anything_is_judged(tmp_path: Path) -> None:
    async with serve_data(tmp_path) as client:
        media = await upload(client, 1)
        await dataset_of(client, "one", [naming("a", *media)])
    with closing(sqlite3.connect(tmp_path / "data.db")) as database, database:
        database.execute("DELETE FROM held_objects")
        database.execute("DELETE FROM counted_datasets")
    async with serve_data(tmp_path, **AT_ONCE) as client:
        assert (await collect(client)).datasets_counted == 1
        assert await there(client, media) == [True]


async def test_pack_that_is_mostly_waste_is_written_anew(tmp_path: Path) -> None:
    async with serve_data(tmp_path, **AT_ONCE) as client:
        pictures = [png_bytes(seed, side=8) for seed in range(10)]
        source = tmp_path / "text-image-to-text.jsonl"
        for name, chosen in (("many", range(10)), ("few", (2, 7))):
            source.write_text("".join(row_with(pictures[number]) for number in chosen))
            async for _ in client.import_dataset(name, source.as_uri()):
                pass
        (pack,) = packs_in(tmp_path)
        await client.delete_dataset("projects/default/datasets/many")
        done = await collect(client)
        assert done.removed_count == 8
        done = await collect(client)
        assert (done.packs_rewritten, done.removed_count) == (1, 0)
        assert done.freed_bytes == pack[1]
        ((_, size_bytes),) = packs_in(tmp_path)
        assert size_bytes < pack[1] / 2
        records = [record async for record in client.stream_records("projects/default/datasets/few")]
        named = [medium for record in records for medium in media_of([record.prompt])]
        assert {await client.get_media(medium.sha256) for medium in named} == {pictures[2], pictures[7]}
        await client.delete_dataset("projects/default/datasets/few")
        await collect(client)
        await collect(client)
        assert packs_in(tmp_path) == []


def row_with(picture: bytes) -> str:
    image = f"data:image/png;base64,{base64.b64encode(picture).decode()}"
    row = {"question": "?", "image": image, "response_1": "x", "response_2": "y", "overall_response": 1}
    return f"{json.dumps(row)}\n"


def packs_in(root: Path) -> list[tuple[str, int]]:
    folder = root / "media" / "packs"
    return [(path.name, path.stat().st_size) for path in folder.rglob("*") if path.is_file()]


async def test_type_that_a_killed_put_left_without_its_medium_goes(tmp_path: Path) -> None:
    async with serve_data(tmp_path, **AT_ONCE) as client:
        await upload(client, 1)
        left = tmp_path / "media" / "types" / "ab" / ("cd" * 31)
        left.parent.mkdir(parents=True)
        left.write_text("image/bmp")
        await collect(client)
        assert not left.exists()
        assert await there(client, await upload(client, 1)) == [True]


async def test_upload_of_what_is_being_removed_is_refused_until_it_is_gone(tmp_path: Path) -> None:
    async with serve_data(tmp_path, **SOON) as client:
        (medium,) = await upload(client, 1)
        with closing(sqlite3.connect(tmp_path / "data.db")) as database, database:
            database.execute("INSERT INTO condemned_objects VALUES (?, 1, ?)", (medium.sha256, 2**62))
        # The client comes again until its time is over, which may be while it waits for an answer.
        with pytest.raises((Unavailable, DeadlineExceeded)) as error:
            await client.upload_media(png_bytes(1, side=8), modality=IMAGE, deadline_seconds=0.5)
        assert error.value.reason in ("OBJECT_LEAVES", "DEADLINE_EXCEEDED")
        with closing(sqlite3.connect(tmp_path / "data.db")) as database, database:
            before = time.time_ns() // 1000 - int(LEAST_CLAIM_SECONDS * 1e6)  # the process that removes it has died
            database.execute("UPDATE condemned_objects SET claimed_us = ?", (before,))
        await collect(client)
        assert await there(client, await upload(client, 1)) == [True]


OPERATIONS = st.lists(
    st.tuples(
        st.sampled_from(("upload", "append", "commit", "delete version", "delete dataset", "collect")),
        st.integers(0, 2),  # the dataset
        st.integers(0, 3),  # the medium
        st.integers(0, 1),  # the record
    ),
    max_size=25,
)


@settings(max_examples=8, deadline=None)
@given(operations=OPERATIONS)
def test_whatever_happens_what_is_named_is_there_and_in_the_end_nothing_else(operations: list[Any]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        asyncio.run(follow(Path(folder), operations))


async def follow(root: Path, operations: list[Any]) -> None:
    """Does the operations on a service and on a model of it, and compares what is stored with what is named."""
    world = World()
    async with serve_data(root, **SOON) as client:
        world.media = await upload(client, 1, 2, 3, 4)
        for operation, dataset, medium, record in operations:
            await world.step(client, operation, f"set-{dataset}", medium, f"r{record}")
            if operation == "collect":
                await collect(client)
                uploaded = await there(client, world.media)
                assert all(uploaded[number] for number in world.named())
        await collect(client)
        await collect(client)  # packs have no place here, but what a first round condemns may go in a second
        stored = await there(client, world.media)
        assert [number for number, found in enumerate(stored) if found] == sorted(world.named())


@dataclass
class World:
    """What the service must know: which media each head and each version name."""

    media: list[content_pb2.Media] = field(default_factory=list)
    heads: dict[str, dict[str, int]] = field(default_factory=dict)
    versions: dict[str, dict[int, dict[str, int]]] = field(default_factory=dict)

    def named(self) -> set[int]:
        states = [*self.heads.values(), *(state for one in self.versions.values() for state in one.values())]
        return {number for state in states for number in state.values()}

    async def step(self, client: AsyncClient, operation: str, dataset: str, medium: int, record: str) -> None:
        name = f"projects/default/datasets/{dataset}"
        if operation == "upload":
            await upload(client, medium + 1)
        elif operation == "append":
            if dataset not in self.heads:
                await client.create_dataset(dataset)
                self.heads[dataset], self.versions[dataset] = {}, {}
            await upload(client, medium + 1)  # it may be gone by now
            await client.append_records(name, [naming(record, self.media[medium])])
            self.heads[dataset][record] = medium
        elif operation == "commit" and dataset in self.heads:
            number = int((await client.commit_version(name)).name.rpartition("/")[2])
            self.versions[dataset][number] = dict(self.heads[dataset])
        elif operation == "delete version" and self.versions.get(dataset):
            number = max(self.versions[dataset])
            await client.delete_dataset_version(f"{name}/versions/{number}", force=True)
            del self.versions[dataset][number]
        elif operation == "delete dataset" and dataset in self.heads:
            await client.delete_dataset(name)
            del self.heads[dataset], self.versions[dataset]
