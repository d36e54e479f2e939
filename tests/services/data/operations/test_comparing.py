"""The differences between two datasets: which records, which fields, and all of them counted."""

from typing import Any

import pytest

from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.errors import InvalidArgument, NotFound
from omnialign.v1.data_service_pb2 import CompareDatasetsResponse
from omnialign.v1.dataset_operations_pb2 import RecordDifference
from omnialign.v1.record_pb2 import DimensionScore, Feedback, Preference, Record, Response
from services.data.operations.comparing import changed_fields

NAME = "projects/default/datasets/pets"


async def compared(client: AsyncClient, *names: str, **options: Any) -> tuple[dict[str, Any], CompareDatasetsResponse]:
    """The kinds and fields by id, and the last message."""
    found, last = {}, None
    async for last in client.compare_datasets(*names, **options):
        found.update({one.id: (one.kind, list(one.fields)) for one in last.differences})
    assert last is not None
    return found, last


async def test_added_removed_and_changed_records_are_told_apart(client: AsyncClient) -> None:
    await client.create_dataset("pets")
    await client.append_records(NAME, [Record(id=f"{n:04d}", prompt=content("x")) for n in range(3000)])
    before = (await client.commit_version(NAME)).name
    await client.append_records(NAME, [Record(id="0007", prompt=content("y")), Record(id="\u200fnew\n")])
    after = (await client.commit_version(NAME)).name
    found, last = await compared(client, before, after)
    assert found == {
        "0007": (RecordDifference.KIND_CHANGED, ["prompt.parts[0].text"]),
        "\u200fnew\n": (RecordDifference.KIND_ADDED, []),
    }
    assert (last.added_count, last.removed_count, last.changed_count, last.equal_count) == (1, 0, 1, 2999)
    found, last = await compared(client, NAME, before)
    assert found["\u200fnew\n"] == (RecordDifference.KIND_REMOVED, [])
    assert (last.added_count, last.removed_count, last.changed_count, last.equal_count) == (0, 1, 1, 2999)
    assert (await compared(client, after, NAME))[1].equal_count == 3001


async def test_as_many_are_listed_as_wanted_and_all_are_counted(client: AsyncClient) -> None:
    await client.create_dataset("pets")
    await client.create_dataset("none")
    await client.append_records(NAME, [Record(id=f"{n:04d}") for n in range(1500)])
    found, last = await compared(client, "projects/default/datasets/none", NAME, limit=2)
    assert list(found) == ["0000", "0001"]
    assert last.added_count == 1500
    assert len((await compared(client, "projects/default/datasets/none", NAME))[0]) == 1000
    with pytest.raises(NotFound):
        await compared(client, NAME, "projects/default/datasets/absent")
    with pytest.raises(InvalidArgument):
        await compared(client, NAME, "")


def test_fields_are_named_down_to_what_differs() -> None:
    def made(**fields: Any) -> Record:
        scores = [DimensionScore(dimension="clarity", score=fields.pop("score", 1))]
        feedback = Feedback(scores=scores, critique=fields.pop("critique", ""))
        return Record(id="1", responses=[Response(content=content("a"), feedback=feedback)], **fields)

    for one, other, wanted in (
        (made(), made(), []),
        (made(split="a"), made(split="b", labels={"x": "1"}), ["split", "labels[x]"]),
        (made(labels={"x": "1", "y": "2"}), made(labels={"x": "2"}), ["labels[x]", "labels[y]"]),
        (made(score=1), made(score=3), ["responses[0].feedback.scores[0].score"]),
        (made(critique="c"), made(), ["responses[0].feedback.critique"]),
        (made(), made(preference=Preference(preferred=1)), ["preference"]),
        (made(), Record(id="1", subtask="t2t"), ["subtask", "responses"]),
    ):
        assert list(changed_fields(one, other)) == wanted
