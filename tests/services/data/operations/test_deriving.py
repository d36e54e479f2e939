"""Datasets that are made of others: what is in them, what is refused, and what a killed or repeated call leaves."""

import asyncio
from collections import Counter
from collections.abc import Sequence
from typing import Any

import pytest

from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.errors import AlreadyExists, FailedPrecondition, InvalidArgument, NotFound, OmnialignError
from omnialign.v1.content_pb2 import MODALITY_IMAGE, Media
from omnialign.v1.data_service_pb2 import DeriveDatasetResponse, RecordFilter
from omnialign.v1.dataset_operations_pb2 import Merge, Sample, Split, SplitShare
from omnialign.v1.record_pb2 import DimensionScore, Feedback, Record, Response
from services.data.datasets import Datasets
from services.data.operations import target
from services.data.operations.choosing import FORMER_SPLIT
from services.data.operations.merging import MERGED_FROM, RENAMED_FROM

PETS = "projects/default/datasets/pets"
REQUEST_ID = "00000000-0000-4000-8000-000000000001"
TENTH = [SplitShare(split="train", share=0.9), SplitShare(split="test", share=0.1)]


def record(number: int, *, prompt: str = "", subtask: str = "", score: int | None = None, **fields: Any) -> Record:
    scores = [] if score is None else [DimensionScore(dimension="clarity", score=score)]
    return Record(
        id=f"r{number:04d}",
        subtask=subtask or ("ti2t" if number % 4 == 0 else "t2t"),
        prompt=content(prompt or f"Which cat is number {number}?"),
        responses=[Response(content=content(f"answer {number}"), feedback=Feedback(scores=scores))],
        **fields,
    )


async def filled(client: AsyncClient, dataset_id: str, records: Sequence[Record]) -> str:
    """The first version of a dataset."""
    name = (await client.create_dataset(dataset_id)).name
    await client.append_records(name, records)
    return (await client.commit_version(name)).name


async def derive(client: AsyncClient, *sources: str, new: str = "made", **operation: Any) -> DeriveDatasetResponse:
    """The last message."""
    return [found async for found in client.derive_dataset(new, sources, **operation)][-1]


async def records_of(client: AsyncClient, name: str) -> list[Record]:
    return [found async for found in client.stream_records(name)]


async def sides(client: AsyncClient, name: str) -> dict[str, str]:
    return {found.id: found.split for found in await records_of(client, name)}


async def test_a_filter_keeps_whole_records_and_says_where_they_are_from(client: AsyncClient) -> None:
    pets = await filled(client, "pets", [record(n, score=n % 4) for n in range(40)])
    last = await derive(client, PETS, filter=RecordFilter(subtasks=["t2t"], min_score=2, text="CAT"))
    made = last.dataset_version
    assert (made.name, made.record_count) == ("projects/default/datasets/made/versions/1", 20)
    assert last.records_written == 20
    assert list(last.sources) == [pets]
    assert await records_of(client, made.name) == [record(n, score=n % 4) for n in range(40) if n % 4 >= 2]
    edges = (await client.get_lineage("projects/default/datasets/made")).edges
    assert (pets, "filtered_from") in {(edge.source, edge.relation) for edge in edges}
    assert made.name in {edge.target for edge in (await client.get_lineage(pets)).edges}
    dataset = await client.get_dataset("projects/default/datasets/made")
    assert dataset.display_name == "Filtered from pets/1"
    labels = dataset.labels
    assert (labels["made_by"], labels["made_from"]) == ("filter", pets)
    assert '"min_score": 2' in labels["parameters"]


async def test_a_sample_has_as_many_as_wanted_and_smaller_ones_are_a_part_of_it(client: AsyncClient) -> None:
    pets = await filled(client, "pets", [record(n) for n in range(300)])
    await derive(client, pets, new="large", sample=Sample(count=100, seed=3))
    await derive(client, pets, new="small", sample=Sample(count=10, seed=3))
    await derive(client, pets, new="other", sample=Sample(count=10, seed=4))
    large, small, other = [
        {one.id for one in await records_of(client, f"projects/default/datasets/{name}")}
        for name in ("large", "small", "other")
    ]
    assert (len(large), len(small), len(other)) == (100, 10, 10)
    assert small < large
    assert small != other
    assert 60 < sum(one >= "r0100" for one in large) < 75  # 66.7 are to be expected, from all parts of the ids
    with pytest.raises(FailedPrecondition) as caught:
        await derive(client, pets, new="too-large", sample=Sample(count=301))
    assert caught.value.reason == "SAMPLE_TOO_LARGE"


async def test_a_split_has_its_shares_in_each_subtask_and_never_cuts_between_equal_prompts(client: AsyncClient) -> None:
    records = [record(n, subtask=("t2t", "t2i", "ti2t")[n % 3]) for n in range(300)]
    records += [record(1000 + n, prompt=f"  which CAT is\tnumber {n}? ") for n in range(0, 60, 2)]
    pets = await filled(client, "pets", records)
    last = await derive(client, pets, split=Split(shares=TENTH))
    made = await records_of(client, last.dataset_version.name)
    assert last.split_counts == Counter(one.split for one in made)
    assert abs(last.split_counts["test"] - 33) <= 3
    for subtask in ("t2i", "ti2t"):
        found = Counter(one.split for one in made if one.subtask == subtask)
        assert abs(found["test"] - sum(found.values()) / 10) <= 2
    found = {one.id: one.split for one in made}
    assert all(found[f"r{1000 + n}"] == found[f"r{n:04d}"] for n in range(0, 60, 2))
    await derive(client, pets, new="again", split=Split(shares=TENTH))
    assert await sides(client, "projects/default/datasets/again") == found
    await derive(client, pets, new="other", split=Split(shares=TENTH, seed=1))
    assert await sides(client, "projects/default/datasets/other") != found


async def test_a_small_subtask_has_its_share_exactly(client: AsyncClient) -> None:
    pets = await filled(client, "pets", [record(n, subtask=f"t2{'tiav'[n % 4]}") for n in range(40)])
    last = await derive(client, pets, split=Split(shares=TENTH, seed=7))
    found = Counter((one.subtask, one.split) for one in await records_of(client, last.dataset_version.name))
    assert all(found[f"t2{one}", "test"] == 1 for one in "tiav")


async def test_a_stable_split_stays_when_the_dataset_grows(client: AsyncClient) -> None:
    records = [record(n) for n in range(600)]
    stable = Split(shares=TENTH, stable=True)
    few = await derive(client, await filled(client, "few", records[:400]), new="few-split", split=stable)
    many = await derive(client, await filled(client, "many", records), new="many-split", split=stable)
    before, after = [await sides(client, one.dataset_version.name) for one in (few, many)]
    assert before.items() <= after.items()
    assert 40 < Counter(after.values())["test"] < 80


async def test_the_split_that_a_record_had_becomes_a_label(client: AsyncClient) -> None:
    pets = await filled(client, "pets", [record(1, split="validation"), record(2)])
    halves = [SplitShare(split="a", share=0.5), SplitShare(split="b", share=0.5)]
    one, two = await records_of(client, (await derive(client, pets, split=Split(shares=halves))).dataset_version.name)
    assert {one.split, two.split} <= {"a", "b"}
    assert (dict(one.labels), dict(two.labels)) == ({FORMER_SPLIT: "validation"}, {})


async def test_a_merge_labels_records_and_takes_equal_ones_once(client: AsyncClient) -> None:
    one = await filled(client, "one", [record(n) for n in range(5)])
    two = await filled(client, "two", [record(n) for n in range(3, 8)])
    made = await records_of(client, (await derive(client, one, two, merge=Merge())).dataset_version.name)
    assert [(found.id, found.labels[MERGED_FROM]) for found in made] == [
        *((f"r{n:04d}", one) for n in range(5)),
        *((f"r{n:04d}", two) for n in range(5, 8)),
    ]
    edges = (await client.get_lineage("projects/default/datasets/made", direction=1)).edges
    assert {(edge.source, edge.relation) for edge in edges} >= {(one, "merged_from"), (two, "merged_from")}


async def test_different_records_with_one_id_are_refused_or_treated_as_wanted(client: AsyncClient) -> None:
    long = "x" * 200
    sources = []
    for name in ("one", "two", "three"):
        same = [record(1), Record(id=long, prompt=content(name)), record(2, prompt=name)]
        sources.append(await filled(client, name, [*same, Record(id=f"only {name}", prompt=content(name))]))
    with pytest.raises(FailedPrecondition) as caught:
        await derive(client, *sources, merge=Merge())
    assert (caught.value.reason, caught.value.metadata["conflicts"]) == ("MERGE_CONFLICT", "2")
    with pytest.raises(NotFound):  # what was written is gone, and the id is free
        await client.get_dataset("projects/default/datasets/made")
    for policy, winner in ((Merge.ON_CONFLICT_KEEP_FIRST, "one"), (Merge.ON_CONFLICT_KEEP_LAST, "three")):
        last = await derive(client, *sources, new=winner + "-wins", merge=Merge(on_conflict=policy))
        made = {found.id: found for found in await records_of(client, last.dataset_version.name)}
        assert len(made) == 6
        assert last.conflict_count == 2
        assert made[long].prompt == made["r0002"].prompt == content(winner)
    last = await derive(client, *sources, merge=Merge(on_conflict=Merge.ON_CONFLICT_RENAME))
    made = {found.id: found for found in await records_of(client, last.dataset_version.name)}
    assert len(made) == 10
    renamed = [found for found in made.values() if RENAMED_FROM in found.labels]
    assert Counter(found.labels[RENAMED_FROM] for found in renamed) == {long: 2, "r0002": 2}
    assert {found.prompt.parts[0].text for found in renamed} == {"two", "three"}
    assert made["r0002"].prompt == content("one")


async def test_a_repeated_call_has_the_answer_of_the_first(client: AsyncClient) -> None:
    pets = await filled(client, "pets", [record(n) for n in range(20)])
    first = await derive(client, pets, sample=Sample(count=5), request_id=REQUEST_ID)
    await client.append_records(PETS, [record(99)])
    await client.commit_version(PETS)
    second = await derive(client, pets, sample=Sample(count=5), request_id=REQUEST_ID)
    assert second.dataset_version == first.dataset_version
    for operation, reason in (
        ({"sample": Sample(count=6), "request_id": REQUEST_ID}, "REQUEST_ID_REUSED"),
        ({"sample": Sample(count=5)}, "DATASET_EXISTS"),
    ):
        with pytest.raises(OmnialignError) as caught:
            await derive(client, pets, **operation)
        assert caught.value.reason == reason
    assert len(await records_of(client, "projects/default/datasets/made")) == 5


async def test_two_calls_of_one_request_at_once_make_one_dataset(client: AsyncClient) -> None:
    pets = await filled(client, "pets", [record(n) for n in range(50)])
    calls = [derive(client, pets, sample=Sample(count=25), request_id=REQUEST_ID) for _ in range(3)]
    answers = await asyncio.gather(*calls)
    assert {one.dataset_version.name for one in answers} == {"projects/default/datasets/made/versions/1"}
    assert len(await records_of(client, "projects/default/datasets/made")) == 25


async def test_a_call_that_broke_off_leaves_no_version_and_is_finished_by_a_repeated_one(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(target, "WRITE_RECORDS", 10)
    pets = await filled(client, "pets", [record(n) for n in range(45)])
    commit, wanted = Datasets.commit, Split(shares=TENTH)

    async def killed(*_: Any) -> Any:
        raise OmnialignError("killed here")

    monkeypatch.setattr(Datasets, "commit", killed)
    with pytest.raises(OmnialignError):
        await derive(client, pets, split=wanted, request_id=REQUEST_ID)
    half = await client.get_dataset("projects/default/datasets/made")
    assert (half.record_count, half.latest_version) == (45, 0)
    monkeypatch.setattr(Datasets, "commit", commit)
    with pytest.raises(AlreadyExists):
        await derive(client, pets, split=wanted)
    last = await derive(client, pets, split=wanted, request_id=REQUEST_ID)
    await derive(client, pets, new="undisturbed", split=wanted)
    assert last.dataset_version.record_count == 45
    assert await sides(client, half.name) == await sides(client, "projects/default/datasets/undisturbed")


async def test_records_that_others_wrote_to_a_half_made_dataset_are_not_committed(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    pets = await filled(client, "pets", [record(n) for n in range(5)])
    with monkeypatch.context() as patch, pytest.raises(OmnialignError):
        patch.setattr(Datasets, "commit", None)
        await derive(client, pets, sample=Sample(count=3), request_id=REQUEST_ID)
    await client.append_records("projects/default/datasets/made", [record(77)])
    with pytest.raises(OmnialignError) as caught:
        await derive(client, pets, sample=Sample(count=3), request_id=REQUEST_ID)
    assert caught.value.reason == "DATASET_CHANGED"


async def test_what_cannot_be_made_is_refused_and_leaves_nothing(client: AsyncClient) -> None:
    pets = await filled(client, "pets", [record(n) for n in range(5)])
    other = await filled(client, "other", [record(9)])
    await client.create_dataset("empty")
    shares = [SplitShare(split="a", share=0.5), SplitShare(split="b", share=0.4)]
    twice = [SplitShare(split="a", share=0.5), SplitShare(split="a", share=0.5)]
    none = RecordFilter(text="dog")
    for sources, operation, reason in (
        ([pets], {"filter": none}, "NO_RECORDS_LEFT"),
        ([pets], {"split": Split(shares=shares)}, "SHARES_INVALID"),
        ([pets], {"split": Split(shares=twice)}, "SHARES_INVALID"),
        ([pets], {"split": Split(shares=shares[:1])}, "REQUEST_INVALID"),
        ([pets], {"sample": Sample()}, "REQUEST_INVALID"),
        ([pets], {}, "REQUEST_INVALID"),
        ([], {"filter": none}, "REQUEST_INVALID"),
        ([pets], {"merge": Merge()}, "SOURCES_INVALID"),
        ([pets, PETS], {"merge": Merge()}, "SOURCES_INVALID"),
        ([pets, other], {"filter": none}, "SOURCES_INVALID"),
        (["projects/default/datasets/empty"], {"filter": none}, "DATASET_VERSION_NOT_FOUND"),
        (["projects/default/datasets/absent"], {"filter": none}, "DATASET_NOT_FOUND"),
        (["../pets"], {"filter": none}, "RESOURCE_NAME_INVALID"),
    ):
        with pytest.raises((FailedPrecondition, InvalidArgument, NotFound)) as caught:
            await derive(client, *sources, **operation)
        assert caught.value.reason == reason, (sources, operation)
    assert {one.name async for one in client.list_datasets()} == {
        f"projects/default/datasets/{name}" for name in ("pets", "other", "empty")
    }


async def test_the_media_of_a_dataset_count_for_it(serving: Any, tmp_path: Any) -> None:
    picture = Media(modality=MODALITY_IMAGE, mime_type="image/png", sha256="a" * 64, size_bytes=100)
    async with serving(tmp_path / "state") as client:
        pets = await filled(client, "pets", [Record(id="1", prompt=content(picture))])
        await derive(client, pets, sample=Sample(count=1))
        await client.delete_dataset(PETS)
        (kept,) = await records_of(client, "projects/default/datasets/made")
        assert kept.prompt.parts[0].media == picture
