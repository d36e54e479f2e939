"""Which records are the same: equal contents, near ones, and those that only seem so."""

import io
import os
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from omnialign import media
from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.errors import InvalidArgument
from omnialign.v1.content_pb2 import (
    MODALITY_AUDIO,
    MODALITY_IMAGE,
    MODALITY_TEXT,
    ROLE_SYSTEM,
    ROLE_USER,
    EarlierMessage,
    Media,
)
from omnialign.v1.dataset_operations_pb2 import Deduplication, DuplicatePair
from omnialign.v1.record_pb2 import Preference, Record, Response
from services.data.operations import sketches
from services.data.operations.content import normalised
from services.data.operations.known import Known
from tests.services.data.operations.test_deriving import filled, records_of
from tests.services.data.operations.test_fingerprints import scene

LONG = (
    "The old lighthouse keeper climbed the winding stairs every evening at dusk, carrying a lamp in one hand and a "
    "book in the other, because the nights were long and the sea had little to say to him after thirty winters. "
    "Whenever a ship passed far out, he raised the lamp and counted slowly until its own light answered from the dark."
)
PARAPHRASE = (
    "Each night when the sun went down, the aged man who kept the lighthouse went up its spiral steps with a lantern "
    "and something to read, since after three decades of winters the waters no longer told him much in the darkness. "
    "If some vessel went by at a distance, he would lift his lantern, and count with patience until it replied."
)


def record(name: str, prompt: str | Media, *responses: str | Media, **fields: Any) -> Record:
    return Record(
        id=name, prompt=content(prompt), responses=[Response(content=content(r)) for r in responses], **fields
    )


async def pairs_of(
    client: AsyncClient, records: Sequence[Record], **wanted: Any
) -> tuple[dict[str, DuplicatePair], list[str]]:
    """The pairs by the removed id, and the ids that stay."""
    source, pairs = await filled(client, "pets", records), dict[str, DuplicatePair]()
    async for last in client.derive_dataset("made", [source], deduplication=Deduplication(**wanted)):
        pairs.update({pair.removed_id: pair for pair in last.duplicates})
    assert last.duplicate_count == len(pairs)
    return pairs, [one.id for one in await records_of(client, last.dataset_version.name)]


async def uploaded(client: AsyncClient, pixels: np.ndarray, form: str = "PNG") -> Media:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, form)
    return await client.upload_media(buffer.getvalue(), modality=MODALITY_IMAGE)


async def test_records_and_media_are_compared_off_the_event_loop(
    client: AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    def watched(name: str) -> Any:
        method = getattr(Known, name)

        def call(*args: Any, **kwargs: Any) -> Any:
            threads[name] = threading.get_ident()
            return method(*args, **kwargs)

        return call

    threads = dict[str, int]()
    for name in ("same", "add", "has_medium", "add_medium"):
        monkeypatch.setattr(Known, name, watched(name))
    picture = await uploaded(client, scene(0))
    await pairs_of(client, [record("a", picture, "Two."), record("b", picture, "Three.")], near=True)
    assert set(threads) == {"same", "add", "has_medium", "add_medium"}
    assert threading.get_ident() not in threads.values()


async def test_equal_contents_are_the_same_whatever_their_case_and_white_space(client: AsyncClient) -> None:
    records = [
        record("a", "What is 1+1?", "Two."),
        record("b", " what  IS\n1+1?", "two.", split="test"),
        record("c", "What is 1-1?", "Two."),
        record("d", "What is 1+1?", "Two.", "2"),
        record("e", "What is 1+1?"),
        record("f", "STRASSE", preference=Preference(preferred=1)),
        record("g", "Straße", preference=Preference(preferred=2)),
        record("fa", "Two.", history=[EarlierMessage(role=ROLE_USER, content=content("What is 1+1?"))]),
        record("fb", "two.", history=[EarlierMessage(role=ROLE_USER, content=content("what is 1+1?"))]),
        record("fc", "two.", history=[EarlierMessage(role=ROLE_SYSTEM, content=content("what is 1+1?"))]),
        record("h", "e\u0301"),
        record("i", "\u00e9"),
    ]
    pairs, kept = await pairs_of(client, records)
    assert {(pair.removed_id, pair.kept_id) for pair in pairs.values()} == {
        ("b", "a"), ("g", "f"), ("fb", "fa"), ("i", "h")
    }  # fmt: skip
    assert kept == ["a", "c", "d", "e", "f", "fa", "fc", "h"]
    assert all(pair.exact and pair.distance == 0 for pair in pairs.values())
    assert [pairs[name].annotated_differently for name in "bgi"] == [True, True, False]
    lineage = await client.get_lineage("projects/default/datasets/made")
    assert "deduplicated_from" in {edge.relation for edge in lineage.edges}


async def test_media_are_compared_by_digest_unless_near_ones_are_wanted(client: AsyncClient) -> None:
    pixels = scene()
    png, jpeg, other = [
        await uploaded(client, pixels), await uploaded(client, pixels, "JPEG"), await uploaded(client, scene(1))
    ]  # fmt: skip
    records = [record("a", png, "A cloud."), record("b", png, "a cloud."), record("c", jpeg, "A cloud.")]
    records += [record("d", other, "A cloud."), record("e", jpeg, "A stone.")]
    assert (await pairs_of(client, records))[1] == ["a", "c", "d", "e"]


async def test_near_pictures_and_texts_are_found_with_their_distance(client: AsyncClient) -> None:
    pixels = scene()
    small = np.asarray(Image.fromarray(pixels).resize((120, 120)))
    png, jpeg, half, crop, other = [
        await uploaded(client, one, form)
        for one, form in ((pixels, "PNG"), (pixels, "JPEG"), (small, "PNG"), (pixels[1:], "PNG"), (scene(1), "PNG"))
    ]
    records = [
        record("a", png, "A cloud."),
        record("b", jpeg, "a  cloud."),
        record("c", half, "A cloud."),
        record("d", crop, "A cloud."),
        record("e", jpeg, "A stone."),
        record("f", other, "A cloud."),
        record("g", LONG, "yes"),
        record("h", LONG.replace("thirty", "forty"), "yes"),
        record("i", PARAPHRASE, "yes"),
        record("j", LONG, "no"),
        record("k", LONG + " It was 1931.", "yes"),
        record("l", LONG.upper(), "YES", "maybe"),
    ]
    pairs, kept = await pairs_of(client, records, near=True)
    assert {(one.removed_id, one.kept_id) for one in pairs.values()} == {
        ("b", "a"), ("c", "a"), ("d", "a"), ("h", "g")
    }  # fmt: skip
    assert kept == ["a", "e", "f", "g", "i", "j", "k", "l"]
    assert all(pairs[name].differs_most == MODALITY_IMAGE and 0 < pairs[name].distance < 0.05 for name in "bcd")
    assert pairs["h"].differs_most == MODALITY_TEXT
    assert 0.02 < pairs["h"].distance <= 0.1
    assert not any(pair.exact for pair in pairs.values())


async def test_a_threshold_and_a_choice_of_prompts_are_kept_to(client: AsyncClient) -> None:
    records = [
        record("a", LONG, "yes"),
        record("b", LONG.replace("thirty", "forty"), "yes"),
        record("c", LONG.replace("old", "young").replace("lamp", "torch"), "yes"),
        record("d", LONG, "no"),
    ]
    source = await filled(client, "pets", records)
    for number, (wanted, kept) in enumerate(
        (
            ({"near": True, "threshold": 0.99}, "abcd"),
            ({"near": True, "threshold": 0.6}, "ad"),
            ({"prompts_only": True}, "abc"),
            ({"prompts_only": True, "near": True, "threshold": 0.6}, "a"),
        )
    ):
        options = {"deduplication": Deduplication(**wanted)}
        last = [one async for one in client.derive_dataset(f"made-{number}", [source], **options)][-1]
        assert "".join([one.id for one in await records_of(client, last.dataset_version.name)]) == kept, wanted
    for threshold in (0.4, 1.1):
        with pytest.raises(InvalidArgument):
            await anext(client.derive_dataset("made", [source], deduplication=Deduplication(threshold=threshold)))


async def test_sounds_of_silence_and_plain_colours_are_told_apart(client: AsyncClient) -> None:
    silences = [
        await client.upload_media(media.write_audio(np.zeros(length, np.float32), 16_000), modality=MODALITY_AUDIO)
        for length in (16_000, 64_000)
    ]
    colours = [
        await uploaded(client, np.full((32, 32, 3), one, np.uint8)) for one in ((255, 0, 0), (0, 0, 255), (250, 120, 0))
    ]
    records = [record(f"r{n}", one, "Describe it.") for n, one in enumerate((*silences, *colours))]
    assert await pairs_of(client, records, near=True) == ({}, [one.id for one in records])


async def test_media_that_are_gone_are_counted_and_compared_by_their_digests(client: AsyncClient) -> None:
    gone = [Media(modality=MODALITY_IMAGE, mime_type="image/png", sha256=one * 64, size_bytes=9) for one in "ab"]
    records = [record("a", gone[0]), record("b", gone[1]), record("c", gone[0], labels={"x": "y"})]
    source = await filled(client, "pets", records)
    last = [one async for one in client.derive_dataset("made", [source], deduplication=Deduplication(near=True))][-1]
    assert (last.records_written, last.duplicate_count, last.unread_media_count) == (2, 1, 2)


async def test_no_file_of_a_search_is_left(serving: Any, tmp_path: Path) -> None:
    async with serving(tmp_path / "state") as client:
        await pairs_of(client, [record("a", "x"), record("b", "X")], near=True)
        assert not [name for _, _, names in os.walk(tmp_path) for name in names if "duplicates" in name]


def test_a_sketch_knows_how_much_two_texts_have_in_common() -> None:
    words = [f"w{number}" for number in range(4000)]
    whole, part = sketches.sketch(" ".join(words)), sketches.sketch(" ".join(words[:2000]))
    assert len(whole) == sketches.KEPT
    assert sketches.similarity(whole, whole) == 1
    assert abs(sketches.similarity(whole, part) - 0.5) < 0.08  # an estimate from 512 of 4000
    short = [sketches.sketch(normalised(text)) for text in ("one two three four", "one two three five", "", "one")]
    assert sketches.similarity(short[0], short[1]) == pytest.approx(1 / 3)
    assert sketches.similarity(short[2], short[2]) == 1
    assert sketches.similarity(short[2], short[3]) == 0
    assert sketches.similarity(*[sketches.sketch(text) for text in ("猫は赤い帽子", "犬は赤い帽子")]) == pytest.approx(
        3 / 5
    )
