"""The check of media before a job: what it finds, what it asks for, and what a process remembers."""

import io
import wave
from collections import Counter
from collections.abc import Iterable
from hashlib import sha256
from typing import cast

import numpy as np
import pytest
from PIL import Image

from omnialign.client import AsyncClient
from omnialign.client.bulk_media import MediaByDigest
from omnialign.errors import NotFound, Unavailable
from omnialign.modeling.inputs import MediaPolicy
from omnialign.v1 import content_pb2
from services.pipeline import media_check
from services.pipeline.media_check import BATCH_MEDIA, MediaCheck


class Stored:
    """A client that has some media, and counts how often each is fetched."""

    def __init__(self) -> None:
        self.media = dict[str, bytes]()
        self.fetched = Counter[str]()
        self.is_away = False

    def add(self, data: bytes, modality: content_pb2.Modality = content_pb2.MODALITY_IMAGE) -> content_pb2.Media:
        """Stores bytes, as a picture unless said otherwise."""
        digest = sha256(data).hexdigest()
        self.media[digest] = data
        return content_pb2.Media(modality=modality, sha256=digest, size_bytes=len(data))

    async def fetch_media(self, digests: Iterable[str]) -> MediaByDigest:
        """The bytes of media."""
        found = MediaByDigest()
        for digest in digests:
            self.fetched[digest] += 1
            if self.is_away:
                raise Unavailable("away", reason="SERVICE_UNAVAILABLE")
            if digest in self.media:
                found[digest] = self.media[digest]
            else:
                found.errors = {**found.errors, digest: NotFound("no such object", reason="MEDIA_NOT_FOUND")}
        return found


def picture(shade: int) -> bytes:
    """A PNG of one shade."""
    file = io.BytesIO()
    Image.fromarray(np.full((4, 4, 3), shade, np.uint8)).save(file, format="PNG")
    return file.getvalue()


def sound(seconds: int, rate_hz: int = 8000) -> bytes:
    """A silent WAV."""
    file = io.BytesIO()
    with wave.open(file, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate_hz)
        out.writeframes(bytes(2 * rate_hz * seconds))
    return file.getvalue()


def check_of(stored: Stored, policy: MediaPolicy | None = None) -> MediaCheck:
    """The check of a new job, which needs no more of a client than `Stored` has."""
    return MediaCheck(cast("AsyncClient", stored), policy or MediaPolicy())


@pytest.fixture
def stored() -> Stored:
    return Stored()


async def test_each_group_gets_the_reason_of_its_first_medium_that_cannot_be_used(stored: Stored) -> None:
    good, broken = stored.add(picture(1)), stored.add(b"no picture at all")
    missing = content_pb2.Media(modality=content_pb2.MODALITY_IMAGE, sha256="0" * 64)
    groups = [[good], [good, missing], [broken, missing], []]

    found = await check_of(stored).problems(groups)

    assert found[0] == found[3] == ""
    assert found[1] == "MEDIA_NOT_FOUND"
    assert found[2] not in ("", "MEDIA_NOT_FOUND")


async def test_a_medium_of_many_records_is_fetched_once_however_many_there_are(stored: Stored) -> None:
    media = [stored.add(picture(shade)) for shade in range(2 * BATCH_MEDIA + 1)]
    await check_of(stored).problems([[one, media[0]] for one in media])

    assert set(stored.fetched.values()) == {1}
    assert len(stored.fetched) == len(media)


async def test_what_was_just_checked_is_not_fetched_again_however_much_came_before_it(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    media = [stored.add(picture(shade)) for shade in range(6)]
    monkeypatch.setattr(media_check, "MAX_CACHED_BYTES", 2 * max(one.size_bytes for one in media))
    check = check_of(stored)
    for one in media:
        await check.problem([one])
        assert await check.fetch(one) == stored.media[one.sha256]

    assert set(stored.fetched.values()) == {1}


async def test_the_next_job_does_not_fetch_again_what_could_be_used(stored: Stored) -> None:
    media = [stored.add(picture(shade)) for shade in range(3)]
    await check_of(stored).problems([media])
    assert await check_of(stored).problems([media]) == [""]

    assert set(stored.fetched.values()) == {1}


async def test_a_medium_that_was_missing_is_looked_for_again_by_the_next_job(stored: Stored) -> None:
    medium = stored.add(data := picture(7))
    del stored.media[medium.sha256]
    assert await check_of(stored).problem([medium]) == "MEDIA_NOT_FOUND"

    stored.add(data)
    assert await check_of(stored).problem([medium]) == ""


async def test_what_a_policy_takes_off_a_medium_is_told_by_every_job(stored: Stored) -> None:
    medium = stored.add(sound(seconds=2), content_pb2.MODALITY_AUDIO)
    policy = MediaPolicy(max_audio_seconds=1)
    for _ in range(2):
        check = check_of(stored, policy)
        assert await check.problem([medium]) == ""
        (sentence,) = check.in_part()
        assert sentence.startswith("1 media objects are used in part: ")
    assert (await check_of(stored).problem([medium])) == ""
    assert stored.fetched[medium.sha256] == 2  # another policy is another question


async def test_what_was_found_longest_ago_is_forgotten_first_and_asked_for_again(
    stored: Stored, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(media_check, "MAX_REMEMBERED", 3)
    media, missing = [stored.add(picture(shade)) for shade in range(5)], content_pb2.Media(sha256="0" * 64)
    check = check_of(stored)
    assert await check.problems([[*media, missing], [media[0]]]) == ["MEDIA_NOT_FOUND", ""]
    assert await check.problem([media[0]]) == ""
    assert len(check._problems) <= 3


async def test_a_data_service_that_is_away_ends_the_check_and_nothing_is_remembered(stored: Stored) -> None:
    media = [stored.add(picture(shade)) for shade in range(2 * BATCH_MEDIA)]
    stored.is_away = True
    with pytest.raises(Unavailable):
        await check_of(stored).problems([media])

    stored.is_away = False
    assert await check_of(stored).problems([media]) == [""]
