"""What a dataset holds, in numbers and as a page."""

from html.parser import HTMLParser

import pytest

from omnialign.agreement import Level, alpha_of_pairs, krippendorff_alpha
from omnialign.cli.dataset_operations import statistics_lines
from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.errors import NotFound
from omnialign.v1.content_pb2 import MODALITY_IMAGE, ROLE_ASSISTANT, ROLE_SYSTEM, ROLE_USER, EarlierMessage, Media
from omnialign.v1.data_service_pb2 import GetDatasetStatisticsResponse
from omnialign.v1.dataset_operations_pb2 import DatasetStatistics
from omnialign.v1.record_pb2 import (
    VERDICT_ABSTAIN,
    VERDICT_LOSS,
    VERDICT_WIN,
    Assessment,
    Comparison,
    DimensionScore,
    Feedback,
    Preference,
    Record,
    Response,
)
from services.data.operations.statistics import Collector
from services.data.operations.statistics_page import render
from services.data.operations.tallies import MAX_KINDS, OTHERS, Kinds, Numbers

NAME = "projects/default/datasets/pets"
PICTURE = Media(modality=MODALITY_IMAGE, mime_type="image/png", sha256="a" * 64, size_bytes=1000)
HOSTILE = '"><script>alert(1)</script>'


def answer(text: str, *scores: int, critique: str = "") -> Response:
    made = [DimensionScore(dimension="clarity", score=score) for score in scores]
    return Response(content=content(text), feedback=Feedback(scores=made, critique=critique))


def counted(*records: Record) -> DatasetStatistics:
    collector = Collector()
    collector.add(records)
    return collector.result()


async def last_of(client: AsyncClient, name: str, **options: bool) -> GetDatasetStatisticsResponse:
    return [found async for found in client.get_dataset_statistics(name, **options)][-1]


async def test_a_version_is_counted_in_one_stream_and_drawn(client: AsyncClient) -> None:
    await client.create_dataset("pets")
    records = [
        Record(
            id=f"{number:04d}",
            subtask="ti2t",
            split="test" if number < 500 else "train",
            prompt=content(PICTURE, f"Cat {number}?"),
            responses=[answer("yes", number % 4, critique="too short"), answer("no", 3)],
            preference=Preference(preferred=2),
        )
        for number in range(2000)
    ]
    await client.append_records(NAME, records)
    version = (await client.commit_version(NAME)).name
    last = await last_of(client, version, with_page=True)
    found = last.statistics
    assert (last.records_read, last.record_count, found.record_count) == (2000, 2000, 2000)
    assert dict(found.subtask_counts) == {"ti2t": 2000}
    assert dict(found.split_counts) == {"test": 500, "train": 1500}
    assert list(found.scores["clarity"].counts) == [500, 500, 500, 2500]
    assert dict(found.prompt_modalities) == {"text": 2000, "image": 2000}
    assert (found.media_types[0].use_count, found.media_types[0].object_count) == (2000, 1)
    assert (found.media_types[0].size_bytes, found.media_bytes.count) == (1000, 1)
    assert (found.preferences.second, found.critique_count, found.duplicate_count) == (2000, 2000, 0)
    page = last.page.decode()
    assert "<!doctype html>" in page.lower()
    assert "ti2t" in page
    assert not (await last_of(client, NAME)).page
    with pytest.raises(NotFound):
        await last_of(client, "projects/default/datasets/absent")


async def test_a_dataset_without_records_has_statistics_and_a_page(client: AsyncClient) -> None:
    await client.create_dataset("pets")
    last = await last_of(client, NAME, with_page=True)
    assert last.statistics.record_count == 0
    assert b"Records" in last.page


def test_lengths_duplicates_and_modalities_are_those_of_the_records() -> None:
    found = counted(
        Record(id="1", prompt=content("abc"), responses=[answer("x" * 10), answer("y" * 30)]),
        Record(id="2", prompt=content(" ABC"), responses=[answer("X" * 10), answer("y" * 30)]),
        Record(id="3", prompt=content("abc"), responses=[answer("other")]),
        Record(id="4", prompt=content(PICTURE)),
    )
    assert (found.duplicate_count, found.repeated_prompt_count) == (1, 2)
    assert (found.prompt_characters.count, found.prompt_characters.least, found.prompt_characters.most) == (3, 3, 4)
    assert (found.response_characters.median, found.response_characters.most) == (10, 30)
    assert found.response_characters.mean == (10 + 30 + 10 + 30 + 5) / 5
    assert found.preferences.none == 2


def test_messages_before_prompts_are_counted_apart_from_prompts() -> None:
    said = [
        (ROLE_SYSTEM, content("Be brief.")),
        (ROLE_USER, content(PICTURE, "Hi")),
        (ROLE_ASSISTANT, content(PICTURE)),
    ]
    continued = Record(id="1", prompt=content("abc"), history=[EarlierMessage(role=r, content=c) for r, c in said])
    found = counted(continued, Record(id="2", prompt=content("abcde")))
    assert (found.continued_count, found.history_message_count) == (1, 3)
    assert (found.history_characters.count, found.history_characters.least, found.history_characters.most) == (2, 2, 9)
    assert dict(found.history_modalities) == {"text": 2, "image": 2}
    assert (found.prompt_characters.count, found.prompt_characters.most) == (2, 5)
    assert dict(found.prompt_modalities) == {"text": 2}
    assert "messages before prompts: 3 in 1 record" in list(statistics_lines(found))
    assert "Messages before prompts" in render(NAME, found)
    found.repeated_prompt_count = 1104
    assert "0 records, 1\u202f104 prompts" in render(NAME, found)
    assert "essages before prompts" not in render(NAME, counted(Record(id="2", prompt=content("abc"))))


def test_ratings_of_the_same_thing_are_held_against_each_other() -> None:
    def judged(*scores: float) -> Response:
        return Response(assessments=[Assessment(aspect="synergy", score=one, judge=f"j{one}") for one in scores])

    ratings = [[1, 2], [3, 3], [0, 1], [2, 2]]
    found = counted(
        *(Record(id=str(n), responses=[answer("a", *scores)]) for n, scores in enumerate(ratings)),
        Record(id="5", responses=[judged(1, 5), judged(4, 4), Response(assessments=[Assessment(aspect="synergy")])]),
        Record(id="6", responses=[answer("a", 3), answer("b", 0)], preference=Preference(preferred=1)),
        Record(id="7", responses=[answer("a", 3), answer("b", 0)], preference=Preference(preferred=2)),
        Record(
            id="8",
            responses=[answer("a"), answer("b")],
            preference=Preference(preferred=2),
            comparison=Comparison(verdict=VERDICT_WIN),
        ),
        Record(id="9", responses=[answer("a"), answer("b")], comparison=Comparison(verdict=VERDICT_LOSS)),
        Record(id="10", comparison=Comparison(verdict=VERDICT_ABSTAIN)),
    )
    agreed = {one.what: one for one in found.agreements}
    assert set(agreed) == {"clarity", "synergy", "preference and scores", "preference and verdict"}
    judges = [list(one) for one in zip(*ratings, strict=True)]
    assert agreed["clarity"].alpha == pytest.approx(krippendorff_alpha(judges, Level.INTERVAL))
    assert (agreed["clarity"].item_count, agreed["clarity"].equal_share) == (4, 0.5)
    assert (agreed["synergy"].item_count, agreed["synergy"].equal_share) == (2, 0.5)
    assert agreed["preference and scores"].equal_share == 0.5
    assert not agreed["preference and verdict"].HasField("alpha")  # a single pair tells nothing apart
    assert dict(found.verdict_counts) == {"win": 1, "loss": 1, "abstain": 1}


@pytest.mark.parametrize("level", list(Level))
def test_alpha_of_counted_pairs_is_that_of_the_ratings(level: Level) -> None:
    ratings = [[1, 2, 3, 3, 2, 1, 4, 1, 2], [1, 2, 3, 3, 2, 2, 4, 1, 2], [None, 3, 3, 3, 2, 3, 4, 2, 2]]
    pairs: dict[tuple[float, float], float] = {}
    for item in zip(*ratings, strict=True):
        given = [one for one in item if one is not None]
        for place, one in enumerate(given):
            for other in given[:place] + given[place + 1 :]:
                pairs[one, other] = pairs.get((one, other), 0) + 1 / (len(given) - 1)
    assert alpha_of_pairs(pairs, level) == pytest.approx(krippendorff_alpha(ratings, level))
    assert alpha_of_pairs({(1, 1): 4}, level) is None


def test_numbers_of_all_sizes_are_counted_in_bounded_memory() -> None:
    numbers = Numbers()
    for number in range(100_000):
        numbers.add(number)
    found = numbers.distribution()
    assert (found.count, found.least, found.most, found.mean) == (100_000, 0, 99_999, 49_999.5)
    assert abs(found.median - 50_000) < 50
    assert abs(found.percentile_99 - 99_000) < 100
    assert sum(one.count for one in found.bins) == 100_000
    assert [one.start for one in found.bins][:8] == [0, 1, 2, 3, 4, 6, 8, 12]
    assert len(numbers._counts) < 6000
    assert Numbers().distribution().count == 0
    kinds = Kinds()
    for number in range(1000):
        kinds.add(f"kind {number}")
    assert len(kinds.counts) == MAX_KINDS + 1
    assert kinds.counts[OTHERS] == 1000 - MAX_KINDS


def test_nothing_in_a_dataset_becomes_a_part_of_its_page() -> None:
    hostile = Feedback(scores=[DimensionScore(dimension=HOSTILE, score=1), DimensionScore(dimension=HOSTILE, score=2)])
    medium = Media(modality=MODALITY_IMAGE, mime_type=HOSTILE, sha256="b" * 64)
    found = counted(
        Record(
            id=HOSTILE,
            subtask=HOSTILE,
            split=HOSTILE,
            prompt=content(medium, HOSTILE),
            responses=[Response(feedback=hostile)],
        )
    )
    tags = []

    class Tags(HTMLParser):
        def handle_starttag(self, tag: str, attrs: object) -> None:
            tags.append(tag)

    Tags().feed(page := render(NAME, found))
    assert "script" not in tags
    assert "&lt;script&gt;" in page
