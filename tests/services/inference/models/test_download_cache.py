"""Models fetched from the data service: once, whole, within a budget."""

import asyncio
import os
import shutil
from pathlib import Path

import pytest

from omnialign import names
from omnialign.client.downloads import folder_lock
from omnialign.errors import FailedPrecondition, NotFound
from omnialign.v1 import model_pb2
from services.inference.models.download_cache import IN_USE_SECONDS, DownloadCache, _files
from services.inference.models.resolver import ModelResolver


class Source:
    """A registry whose models are one file of so many bytes each, and which counts how often it fetches."""

    def __init__(self, size_bytes: int = 100) -> None:
        self.size_bytes, self.fetched = size_bytes, list[str]()

    def version(self, number: int) -> model_pb2.ModelVersion:
        name = f"projects/p/models/m/versions/{number}"
        uri = f"s3://bucket/models/{number:064x}"
        return model_pb2.ModelVersion(name=name, uri=uri, sha256=f"{number:064x}", size_bytes=self.size_bytes)

    async def get_model_version(self, name: str) -> model_pb2.ModelVersion:
        if not name.startswith("projects/p/"):
            raise NotFound("No such version.", reason="MODEL_VERSION_NOT_FOUND")
        return self.version(int(names.id_of(name)))

    async def download_model(self, name: str, to_folder: Path) -> model_pb2.ModelVersion:
        async with folder_lock(to_folder):
            if not to_folder.exists():  # noqa: ASYNC240
                self.fetched.append(name)
                staged = to_folder.with_name(".staged")
                staged.mkdir()
                await asyncio.sleep(0)
                (staged / "config.json").write_text("{}")
                (staged / "model.safetensors").write_bytes(b"x" * self.size_bytes)
                staged.replace(to_folder)
        return await self.get_model_version(name)


def kept(cache: Path) -> list[str]:
    return sorted(path.name for path in cache.iterdir() if path.is_dir())


def place(cache: Path, number: int) -> Path:
    return DownloadCache(cache, limit_bytes=0).path_of(f"{number:064x}")


def age(cache: Path, number: int, seconds: float) -> None:
    """Makes a model look as if it was asked for so long ago."""
    folder = place(cache, number)
    for path in (folder.with_name(f".{folder.name}.used"), *folder.iterdir(), folder):
        moment = path.stat().st_mtime - seconds
        os.utime(path, (moment, moment))


async def test_a_registered_model_that_is_elsewhere_is_fetched_once(tmp_path: Path) -> None:
    source = Source()
    resolver = ModelResolver(source, cache=DownloadCache(tmp_path / "cache", limit_bytes=1000))
    asked = [resolver.folder("projects/p/models/m/versions/1") for _ in range(4)]
    assert set(await asyncio.gather(*asked)) == {place(tmp_path / "cache", 1)}
    assert len(source.fetched) == 1


async def test_a_model_on_this_machine_is_used_where_it_is(tmp_path: Path) -> None:
    class Here(Source):
        def version(self, number: int) -> model_pb2.ModelVersion:
            return model_pb2.ModelVersion(name="x", uri=(tmp_path / "here").as_uri(), sha256="0" * 64)

    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "config.json").write_text("{}")
    (tmp_path / "here" / "model.safetensors").write_bytes(b"x")
    source = Here()
    resolver = ModelResolver(source, cache=DownloadCache(tmp_path / "cache", limit_bytes=1000))
    assert await resolver.folder("projects/p/models/m/versions/1") == tmp_path / "here"
    assert source.fetched == []


async def test_the_least_recently_used_model_goes_first(tmp_path: Path) -> None:
    source, cache = Source(), DownloadCache(tmp_path, limit_bytes=250)
    for number in (1, 2):
        await cache.folder(source.version(number), source=source)
        age(tmp_path, number, 2 * IN_USE_SECONDS + number)
    await cache.folder(source.version(2), source=source)  # 2 is the older of them, and used again
    third = await cache.folder(source.version(3), source=source)
    assert kept(tmp_path) == sorted([place(tmp_path, 2).name, third.name])
    assert len(source.fetched) == 3


async def test_what_was_asked_for_just_now_stays_above_the_budget(tmp_path: Path) -> None:
    source, cache = Source(), DownloadCache(tmp_path, limit_bytes=50)
    for number in (1, 2):
        assert (await cache.folder(source.version(number), source=source)).is_dir()
    assert len(kept(tmp_path)) == 2


async def test_a_model_that_was_removed_is_fetched_again(tmp_path: Path) -> None:
    source = Source()
    resolver = ModelResolver(source, cache=DownloadCache(tmp_path, limit_bytes=150))
    for number in (1, 2, 1):
        folder = await resolver.folder(f"projects/p/models/m/versions/{number}")
        assert (folder / "model.safetensors").is_file()
        age(tmp_path, number, 2 * IN_USE_SECONDS)
    assert len(source.fetched) == 3


async def test_the_folder_of_another_model_cannot_be_named(tmp_path: Path) -> None:
    source = Source()
    caches = [DownloadCache(tmp_path / name, limit_bytes=1000) for name in ("a", "b")]
    folders = [await cache.folder(source.version(1), source=source) for cache in caches]
    assert folders[0].name != folders[1].name
    assert not (folders[0] / ".." / f"{1:064x}").exists()
    assert (tmp_path / "a" / ".key").stat().st_mode & 0o077 == 0


async def test_a_cache_that_cannot_be_written_says_so(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    cache = DownloadCache(tmp_path / "file" / "cache", limit_bytes=100)
    with pytest.raises(FailedPrecondition) as caught:
        await cache.folder(Source().version(1), source=Source())
    assert caught.value.reason == "MODEL_CACHE_UNUSABLE"


def test_a_folder_that_another_process_removes_while_it_is_listed_just_ends(tmp_path: Path) -> None:
    folder = tmp_path / "staged"
    for part in ("one", "two"):
        (folder / part).mkdir(parents=True)
        (folder / part / "model.safetensors").write_bytes(b"x")
    listing = _files(folder)
    assert next(listing)[0] == 1
    shutil.rmtree(folder)
    assert list(listing) == []
