"""Lineage over gRPC: walks both ways, and a record through the tables of its job."""

import itertools

import pytest

from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.errors import InvalidArgument, NotFound
from omnialign.v1 import data_service_pb2, record_pb2
from services.data.lineage import topological_order

Edge = data_service_pb2.LineageEdge
SOURCES = data_service_pb2.GetLineageRequest.DIRECTION_SOURCES
PRODUCTS = data_service_pb2.GetLineageRequest.DIRECTION_PRODUCTS


def name(dataset: str) -> str:
    return f"projects/default/datasets/{dataset}"


def chain(*names: str) -> list[data_service_pb2.LineageEdge]:
    return [Edge(source=one, target=other, relation="made_from") for one, other in itertools.pairwise(names)]


async def walk(client: AsyncClient, start: str, **options: int) -> list[tuple[str, str]]:
    return [(edge.source, edge.target) for edge in (await client.get_lineage(start, **options)).edges]


async def test_a_walk_goes_the_way_and_the_depth_asked_for(client: AsyncClient) -> None:
    a, b, c, d = (name(letter * 2) for letter in "abcd")
    await client.add_lineage(chain(a, b, c, d))
    await client.add_lineage(chain(a, b))
    assert await walk(client, c, direction=SOURCES) == [(b, c), (a, b)]
    assert await walk(client, b, direction=PRODUCTS) == [(b, c), (c, d)]
    assert await walk(client, b) == [(a, b), (b, c), (c, d)]
    assert await walk(client, d, direction=SOURCES, max_depth=1) == [(c, d)]


async def test_a_circle_ends(client: AsyncClient) -> None:
    a, b = name("aa"), name("bb")
    await client.add_lineage(chain(a, b, a))
    assert await walk(client, a, direction=SOURCES) == [(b, a), (a, b)]
    with pytest.raises(InvalidArgument) as caught:
        await client.add_lineage(chain(a, a))
    assert caught.value.reason == "LINEAGE_LOOP"


async def test_a_record_is_found_in_the_tables_of_its_job_oldest_stage_first(client: AsyncClient) -> None:
    stages = ("j-verify", "source", "j-sample", "k-sample", "j-critique")  # created in another order than made
    for dataset in stages:
        await client.create_dataset(dataset)
        await client.append_records(name(dataset), [record_pb2.Record(id="r/1", prompt=content(dataset))])
    version = await client.commit_version(name("source"))
    job, other = "projects/default/alignmentJobs/j", "projects/default/alignmentJobs/k"
    await client.add_lineage(chain(version.name, job, name("j-sample"), name("j-critique"), name("j-verify")))
    await client.add_lineage(chain(version.name, other, name("k-sample")))
    answer = await client.get_lineage(f"{name('j-critique')}/records/r/1")
    assert [found.dataset for found in answer.records] == [
        name(dataset) for dataset in ("source", "j-sample", "j-critique", "j-verify")
    ]
    assert answer.records[0].record.prompt.parts[0].text == "source"
    with pytest.raises(NotFound) as caught:
        await client.get_lineage(f"{name('source')}/records/none")
    assert caught.value.reason == "RECORD_NOT_FOUND"


async def test_tables_that_one_job_made_side_by_side_are_related(client: AsyncClient) -> None:
    job = "projects/default/alignmentJobs/j"
    for dataset in ("j-sample", "j-critique"):
        await client.create_dataset(dataset)
        await client.append_records(name(dataset), [record_pb2.Record(id="r")])
        await client.add_lineage(chain(job, name(dataset)))
    answer = await client.get_lineage(f"{name('j-sample')}/records/r")
    assert [found.dataset for found in answer.records] == [name("j-sample"), name("j-critique")]


async def test_records_that_a_model_wrote_and_versions_leave_edges(client: AsyncClient) -> None:
    await client.create_dataset("answers")
    record = record_pb2.Record(id="r")
    record.responses.add().generation.model = "projects/default/models/base/versions/1"
    await client.append_records(name("answers"), [record])
    version = await client.commit_version(name("answers"))
    assert await walk(client, version.name, direction=SOURCES) == [
        (name("answers"), version.name),
        ("projects/default/models/base/versions/1", name("answers")),
    ]


async def test_both_orders_of_a_comparison_leave_edges_to_their_judges(client: AsyncClient) -> None:
    await client.create_dataset("verdicts")
    record, judges = record_pb2.Record(id="r"), [f"projects/default/models/{name}/versions/1" for name in "ab"]
    record.comparison.forward_generation.model, record.comparison.backward_generation.model = judges
    await client.append_records(name("verdicts"), [record])
    found = await walk(client, name("verdicts"), direction=SOURCES)
    assert sorted(found) == [(judge, name("verdicts")) for judge in judges]


@pytest.mark.parametrize("model", ["projects/default/models/a\0", "m" * 1025])
async def test_a_name_that_lineage_cannot_hold_is_refused_before_anything_is_stored(
    client: AsyncClient, model: str
) -> None:
    await client.create_dataset("answers")
    record = record_pb2.Record(id="r")
    record.responses.add().feedback.generation.model = model
    with pytest.raises(InvalidArgument) as caught:
        await client.append_records(name("answers"), [record_pb2.Record(id="good"), record])
    assert [field for field, _ in caught.value.violations] == ["records[1].responses[0].feedback.generation.model"]
    assert [found async for found in client.stream_records(name("answers"))] == []
    for refused in (
        Edge(source=model, target=name("answers"), relation="r"),
        Edge(source="a", target="b", relation=model),
    ):
        with pytest.raises(InvalidArgument):
            await client.add_lineage([refused])
    assert await walk(client, name("answers")) == []


def test_names_in_a_circle_are_all_kept() -> None:
    assert sorted(topological_order(["c", "a", "b"], [("a", "b"), ("b", "a"), ("b", "c")])) == ["a", "b", "c"]
    assert topological_order(["c", "b", "a"], [("a", "b"), ("b", "c")]) == ["a", "b", "c"]
