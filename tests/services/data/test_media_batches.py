"""Many media put at once: each is stored or refused for its own reason, and small ones lie in packs."""

import asyncio
import hashlib
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from omnialign.errors import DataLoss, InvalidArgument, NotFound, OmnialignError
from omnialign.v1 import content_pb2
from services.data.media_keys import media_key
from services.data.media_store import Claim, MediaStore, ValidMedium
from services.data.objects import LocalObjectStore
from services.data.objects.base import ObjectInfo
from services.data.packed_media import PREFIX, PackedMedia
from services.data.packs import read_entries
from tests.services.data.media_store_on_disk import media_store
from tests.services.data.test_media_store import png

IMAGE, AUDIO = content_pb2.MODALITY_IMAGE, content_pb2.MODALITY_AUDIO
PICTURES = [png(seed) for seed in range(20)]


@pytest.fixture
async def stores(tmp_path: Path) -> AsyncIterator[tuple[MediaStore, PackedMedia]]:
    async with media_store(tmp_path) as found:
        yield found


@pytest.fixture
def store(stores: tuple[MediaStore, PackedMedia]) -> MediaStore:
    return stores[0]


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def claimed(*media: bytes) -> list[tuple[bytes, Claim]]:
    return [(data, Claim(IMAGE)) for data in media]


def packs(root: Path) -> list[Path]:
    return [path for path in (root / PREFIX).rglob("*") if path.is_file()]


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


async def test_put_again_they_are_found_and_a_wrong_claim_is_still_refused(store: MediaStore, tmp_path: Path) -> None:
    first = store.put_many(claimed(*PICTURES))
    assert store.put_many(claimed(*PICTURES)) == first
    valid = [ValidMedium(data, sha256(data), "image/png") for data in (*PICTURES, PICTURES[0])]
    assert store.put_valid(valid) == [*first, first[0]]
    assert len(packs(tmp_path)) == 1
    (refused,) = store.put_many([(png(3), Claim(AUDIO))])
    assert isinstance(refused, InvalidArgument)
    assert refused.reason == "MEDIA_TYPE_MISMATCH"


async def test_threads_may_put_the_same_media_at_the_same_time(store: MediaStore, tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as threads:
        found = list(threads.map(store.put_many, [claimed(*PICTURES)] * 4))
    assert found == [found[0]] * 4
    assert [await read(store, sha256(data)) for data in PICTURES] == PICTURES
    assert len(packs(tmp_path)) == 1  # of the same name


async def test_a_packed_medium_is_described_and_read_in_parts_like_any_other(store: MediaStore) -> None:
    store.put_many(claimed(*PICTURES))
    digest = sha256(PICTURES[7])
    found = store.describe(digest)
    assert (found.mime_type, found.size_bytes, found.modality) == ("image/png", len(PICTURES[7]), IMAGE)
    part = b"".join([chunk async for _, chunk in store.read_part(digest, 5, 100)])
    assert part == PICTURES[7][5:105]
    assert store.put(PICTURES[7], claim=Claim(IMAGE)) == (found, True)


async def test_a_medium_damaged_in_its_pack_is_data_loss_until_it_is_put_again(
    store: MediaStore, tmp_path: Path
) -> None:
    store.put_many(claimed(*PICTURES))
    (pack,) = packs(tmp_path)
    data = bytearray(pack.read_bytes())
    data[len(PICTURES[0]) + 50] ^= 1
    pack.write_bytes(data)
    with pytest.raises(DataLoss) as caught:
        await read(store, sha256(PICTURES[1]))
    assert caught.value.reason == "MEDIA_CORRUPT"
    assert await read(store, sha256(PICTURES[2])) == PICTURES[2]
    store.put_many(claimed(PICTURES[1]))  # alone, so as an object of its own
    assert await read(store, sha256(PICTURES[1])) == PICTURES[1]
    pack.write_bytes(data[:1000])
    store.put_many(claimed(*PICTURES))
    assert [await read(store, sha256(data)) for data in PICTURES] == PICTURES


@pytest.mark.parametrize("is_held", [True, False])
async def test_decoded_media_are_looked_for_among_the_objects_that_somebody_holds(
    stores: tuple[MediaStore, PackedMedia], monkeypatch: pytest.MonkeyPatch, is_held: bool
) -> None:
    store, packed = stores
    (alone,) = store.put_many(claimed(PICTURES[0]))
    assert isinstance(alone, content_pb2.Media)
    if is_held:
        await store._usage.hold("projects/p", {alone.sha256: alone.size_bytes}, parent="projects/p")
    asked, stat = list[str](), store._objects.stat

    def noted(key: str) -> ObjectInfo | None:
        asked.append(key)
        return stat(key)

    monkeypatch.setattr(store._objects, "stat", noted)
    valid = [ValidMedium(data, sha256(data), "image/png") for data in PICTURES[:3]]
    found = await asyncio.to_thread(store.put_valid, valid)
    assert [one.sha256 for one in found if isinstance(one, content_pb2.Media)] == [one.sha256 for one in valid]
    assert asked == ([media_key(alone.sha256)] if is_held else [])
    assert sorted(packed.find(one.sha256 for one in valid)) == sorted(one.sha256 for one in valid[is_held:])


async def test_a_pack_says_what_the_database_says(stores: tuple[MediaStore, PackedMedia], tmp_path: Path) -> None:
    store, packed = stores
    store.put_many(claimed(*PICTURES))
    objects = LocalObjectStore(tmp_path)
    (found,) = objects.list("media/packs/")
    entries = read_entries(found.size_bytes, lambda start, length: objects.read(found.key, start=start, length=length))
    rows = packed.find(entry.sha256.hex() for entry in entries)
    assert {e.sha256.hex(): (found.key, e.offset, e.size_bytes, e.mime_type) for e in entries} == {
        digest: (row.key, row.offset, row.size_bytes, row.mime_type) for digest, row in rows.items()
    }


async def test_a_link_to_a_packed_medium_shows_nothing_of_its_neighbours(
    store: MediaStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.put_many(claimed(*PICTURES))
    monkeypatch.setattr(LocalObjectStore, "presign_get", lambda self, key, seconds: str(self.path(key)))
    digest = sha256(PICTURES[3])
    alone = Path(store.presign_get(digest, seconds=60))
    assert await asyncio.to_thread(alone.read_bytes) == PICTURES[3]
    assert await read(store, digest) == PICTURES[3]
    (pack,) = packs(tmp_path)
    pack.write_bytes(bytes(pack.stat().st_size))
    with pytest.raises(DataLoss):
        store.presign_get(sha256(PICTURES[4]), seconds=60)
    with pytest.raises(NotFound):
        store.describe("0" * 64)
