"""Many media put at once: each is stored, or refused for its own reason."""

import hashlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from omnialign.errors import InvalidArgument, OmnialignError
from omnialign.v1 import content_pb2
from services.data.media_store import Claim, MediaStore
from services.data.media_validation import MediaLimits
from services.data.objects import LocalObjectStore
from services.data.usage import Usage
from services.sandbox.pool import Sandbox
from tests.services.data.test_media_store import png

IMAGE, AUDIO = content_pb2.MODALITY_IMAGE, content_pb2.MODALITY_AUDIO
LIMITS = MediaLimits(size_bytes=300_000, image_pixels=1_000_000, seconds=10, frames=100, frame_pixels=1_000_000)


@pytest.fixture
def store(tmp_path: Path, usage: Usage) -> Iterator[MediaStore]:
    root, scratch = tmp_path / "state", tmp_path / "state" / "incoming"
    scratch.mkdir(parents=True)
    with ThreadPoolExecutor(4) as pool:
        sandbox = Sandbox()
        yield MediaStore(
            LocalObjectStore(root), scratch=scratch, limits=LIMITS, pool=pool, sandbox=sandbox, usage=usage
        )
        sandbox.close()


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


async def read(store: MediaStore, digest: str) -> bytes:
    return b"".join([chunk async for _, chunk in store.read(digest)])


async def test_each_medium_is_stored_or_refused_for_its_own_reason(store: MediaStore) -> None:
    large = png(side=300)
    given = [
        (png(1), Claim(IMAGE)),
        (b"", Claim(IMAGE)),
        (png(2), Claim(AUDIO)),
        (png(1), Claim()),
        (png(3), Claim(IMAGE, sha256="0" * 64)),
        (large, Claim(IMAGE)),
        (png(4)[:-400], Claim(IMAGE)),
        (png(5), Claim(IMAGE, "image/png", sha256(png(5)))),
        (b"x" * 300_001, Claim(IMAGE)),
    ]
    found = store.put_many(given)
    reasons = [one.reason if isinstance(one, OmnialignError) else one.mime_type for one in found]
    assert reasons == [
        "image/png", "MEDIA_EMPTY", "MEDIA_TYPE_MISMATCH", "image/png", "MEDIA_DIGEST_MISMATCH", "image/png",
        "MEDIA_TRUNCATED", "image/png", "MEDIA_TOO_LARGE",
    ]  # fmt: skip
    for (data, _), one in zip(given, found, strict=True):
        if not isinstance(one, OmnialignError):
            assert (one.sha256, one.size_bytes) == (sha256(data), len(data))
            assert await read(store, one.sha256) == data


async def test_put_again_they_are_found_and_a_wrong_claim_is_still_refused(store: MediaStore) -> None:
    media = [(png(seed), Claim(IMAGE)) for seed in range(20)]
    first = store.put_many(media)
    assert store.put_many(media) == first
    (refused,) = store.put_many([(png(3), Claim(AUDIO))])
    assert isinstance(refused, InvalidArgument)
    assert refused.reason == "MEDIA_TYPE_MISMATCH"


async def test_threads_may_put_the_same_media_at_the_same_time(store: MediaStore) -> None:
    media = [(png(seed), Claim(IMAGE)) for seed in range(8)]
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(store.put_many, [media] * 4))
    assert found == [found[0]] * 4
    assert [await read(store, sha256(data)) for data, _ in media] == [data for data, _ in media]
