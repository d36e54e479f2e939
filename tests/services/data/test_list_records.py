"""Records page by page: the same cost anywhere, filters that look into records, and tokens."""

from collections.abc import AsyncIterator
from typing import Any

import pytest

from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.errors import InvalidArgument, NotFound
from omnialign.v1.content_pb2 import MODALITY_AUDIO, MODALITY_IMAGE, MODALITY_TEXT, Media
from omnialign.v1.data_service_pb2 import RecordFilter
from omnialign.v1.record_pb2 import DimensionScore, Feedback, Preference, Record, Response
from services.data import datasets

NAME = "projects/default/datasets/records"
PICTURE = Media(modality=MODALITY_IMAGE, mime_type="image/png", sha256="a" * 64)


@pytest.fixture
async def filled(client: AsyncClient) -> AsyncIterator[AsyncClient]:
    """A dataset of 25 records."""
    await client.create_dataset("records")
    records = [
        Record(
            id=f"r{number:02d}",
            subtask="ti2t" if number % 5 == 0 else "t2t",
            split="test" if number == 7 else "train",
            prompt=content(PICTURE, f"Ist die Straße {number}?") if number % 5 == 0 else content(f"why {number}"),
            responses=[
                Response(
                    content=content("because"),
                    feedback=Feedback(
                        critique="too short" if number == 3 else "",
                        scores=[
                            DimensionScore(
                                dimension="clarity", score=number % 4, rationale="שלום" if number == 9 else ""
                            ),
                            DimensionScore(dimension="safety", score=3),
                        ],
                    ),
                )
            ],
            preference=Preference(preferred=1, reason="👍" if number == 11 else ""),
        )
        for number in range(25)
    ]
    await client.append_records(NAME, records)
    yield client


async def pages(client: AsyncClient, source: str = NAME, **wanted: Any) -> list[list[str]]:
    """The ids on each page."""
    found, token = [], ""
    while True:
        page = await client.list_records(source, page_token=token, **wanted)
        found.append([one.id for one in page.records])
        token, wanted = page.next_page_token, {**wanted, "start_id": ""}
        if not token:
            return found


async def test_pages_follow_each_other_in_order_of_id_from_where_one_begins(filled: AsyncClient) -> None:
    ids = [f"r{number:02d}" for number in range(25)]
    assert await pages(filled, page_size=10) == [ids[:10], ids[10:20], ids[20:]]
    assert await pages(filled, page_size=5, start_id="r14x") == [ids[15:20], ids[20:]]
    assert await pages(filled, start_id="r03", page_size=22) == [ids[3:]]
    assert await pages(filled, start_id="z") == [[]]
    version = await filled.commit_version(NAME)
    await filled.append_records(NAME, [Record(id="r05x", prompt=content("new"))])
    assert await pages(filled, version.name, page_size=25) == [ids]
    assert sum(map(len, await pages(filled, page_size=7))) == 26


@pytest.mark.parametrize(
    ("fields", "numbers"),
    [
        ({"subtasks": ["ti2t"]}, range(0, 25, 5)),
        ({"splits": ["test"]}, [7]),
        ({"splits": ["test"], "subtasks": ["ti2t"]}, []),
        ({"modalities": [MODALITY_IMAGE]}, range(0, 25, 5)),
        ({"modalities": [MODALITY_IMAGE, MODALITY_TEXT]}, range(25)),
        ({"modalities": [MODALITY_AUDIO]}, []),
        ({"text": "STRASSE 1"}, [10, 15]),
        ({"text": "Too Short"}, [3]),
        ({"text": "שלום"}, [9]),
        ({"text": "👍"}, [11]),
        ({"min_score": 3, "dimension": "clarity"}, range(3, 25, 4)),
        ({"max_score": 0}, range(0, 25, 4)),
        ({"min_score": 3}, range(25)),
        ({"dimension": "beauty"}, []),
        ({"max_score": 0, "text": "why", "splits": ["train"]}, [4, 8, 12, 16, 24]),
    ],
)
async def test_a_filter_keeps_the_records_that_meet_all_of_it(
    filled: AsyncClient, fields: dict[str, Any], numbers: Any
) -> None:
    found = await pages(filled, filter=RecordFilter(**fields), page_size=4)
    assert [one for page in found for one in page] == [f"r{number:02d}" for number in numbers]


async def test_a_page_looks_into_so_many_records_and_goes_on_from_there(
    filled: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "LOOKED_INTO", 8)
    wanted = RecordFilter(text="why 2")
    assert await pages(filled, filter=wanted, page_size=2) == [["r02"], [], ["r21", "r22"], ["r23", "r24"]]


async def test_a_page_ends_before_it_gets_too_large(client: AsyncClient) -> None:
    await client.create_dataset("records")
    await client.append_records(NAME, [Record(id=f"{n}", prompt=content("x" * 400_000)) for n in range(4)])
    await client.append_records(NAME, [Record(id="5", prompt=content("x" * 2_000_000))])
    assert await pages(client) == [["0", "1"], ["2", "3"], ["5"]]
    assert await pages(client, filter=RecordFilter(text="XX")) == [["0", "1"], ["2", "3"], ["5"]]


async def test_ids_of_every_kind_can_be_gone_on_from(client: AsyncClient) -> None:
    ids = ["\u200fשלום", "\n", "a\tb", "👩‍👩‍👧‍👦", "é" * 200]
    await client.create_dataset("records")
    await client.append_records(NAME, [Record(id=one, prompt=content("x")) for one in ids])
    assert await pages(client, page_size=1) == [[one] for one in sorted(ids)]


async def test_what_cannot_be_listed_is_refused(filled: AsyncClient) -> None:
    token = (await filled.list_records(NAME, page_size=5)).next_page_token
    for wanted, reason in (
        ({"page_token": "made-up"}, "PAGE_TOKEN_INVALID"),
        ({"page_token": token, "filter": RecordFilter(text="x")}, "PAGE_TOKEN_INVALID"),
        ({"page_token": token, "start_id": "r1"}, "START_ID_UNWANTED"),
        ({"page_size": -1}, "REQUEST_INVALID"),
        ({"filter": RecordFilter(min_score=4)}, "REQUEST_INVALID"),
        ({"filter": RecordFilter(text="x" * 201)}, "REQUEST_INVALID"),
    ):
        with pytest.raises(InvalidArgument) as caught:
            await filled.list_records(NAME, **wanted)
        assert caught.value.reason == reason, wanted
    for source in ("projects/default/datasets/absent", f"{NAME}/versions/9"):
        with pytest.raises(NotFound):
            await filled.list_records(source)


async def test_a_dataset_that_was_made_again_has_its_own_records(filled: AsyncClient) -> None:
    assert (await pages(filled))[0][0] == "r00"
    await filled.delete_dataset(NAME)
    await filled.create_dataset("records")
    await filled.append_records(NAME, [Record(id="new", prompt=content("x"))])
    assert await pages(filled) == [["new"]]
