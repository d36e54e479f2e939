"""Uploads that break and go on: by request id, without the bytes of files that have arrived."""

import hashlib
import uuid
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry

from omnialign.errors import InvalidArgument
from omnialign.v1.data_service_pb2 import UploadedFile
from services.data.config import DataConfig
from services.data.objects import open_objects
from services.data.uploads import Uploads
from services.data.usage import Usage

PARENT, REQUEST_ID = "projects/default", str(uuid.UUID(int=7))
FILES = {"a.txt": b"first file", "b.txt": b"second file", "empty": b"", "c.txt": b"third file"}


class Broken(Exception):
    """The connection broke."""


@pytest.fixture
def uploads(tmp_path: Path, usage: Usage) -> Iterator[Uploads]:
    scratch = tmp_path / "incoming"
    scratch.mkdir()
    config = DataConfig(root=tmp_path / "state")
    objects = open_objects(config, registry=CollectorRegistry())
    with ThreadPoolExecutor(1) as pool:
        yield Uploads(config, objects=objects, scratch=scratch, pool=pool, usage=usage)


async def messages(
    files: dict[str, bytes], *, without: int = 0, breaks_in: str = ""
) -> AsyncIterator[UploadedFile | bytes]:
    """Describes all files, and gives the bytes of all but the first ones, until it breaks in the middle of a file."""
    for number, (path, data) in enumerate(files.items()):
        yield UploadedFile(path=path, size_bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
        if path == breaks_in:
            yield data[:3]
            raise Broken
        if number >= without and data:
            yield data


async def test_an_upload_goes_on_with_the_first_file_that_has_not_arrived(uploads: Uploads, tmp_path: Path) -> None:
    with pytest.raises(Broken):
        await uploads.receive(PARENT, messages(FILES, breaks_in="c.txt"), request_id=REQUEST_ID)
    assert await uploads.received_count(PARENT, REQUEST_ID) == 3
    done = await uploads.receive(PARENT, messages(FILES, without=3), request_id=REQUEST_ID)
    folder = tmp_path / "fetched"
    uploads.fetch(await uploads.get(done.upload, parent=PARENT), folder)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == FILES


async def test_a_complete_upload_is_the_same_when_it_is_sent_again(uploads: Uploads) -> None:
    first = await uploads.receive(PARENT, messages(FILES), request_id=REQUEST_ID)
    for without in (0, len(FILES)):
        again = await uploads.receive(PARENT, messages(FILES, without=without), request_id=REQUEST_ID)
        assert (again.upload, again.file_count, again.size_bytes) == (first.upload, len(FILES), first.size_bytes)
    other = await uploads.receive("projects/other", messages(FILES), request_id=REQUEST_ID)
    assert other.upload.rpartition("/")[2] != first.upload.rpartition("/")[2]


async def test_other_files_under_the_request_id_of_a_complete_upload_are_refused(uploads: Uploads) -> None:
    first = await uploads.receive(PARENT, messages(FILES), request_id=REQUEST_ID)
    with pytest.raises(InvalidArgument) as caught:
        await uploads.receive(PARENT, messages(FILES | {"b.txt": b"another"}), request_id=REQUEST_ID)
    assert caught.value.reason == "REQUEST_ID_REUSED"
    assert len((await uploads.get(first.upload, parent=PARENT)).files) == len(FILES)


async def test_bytes_that_never_arrived_may_not_be_left_out(uploads: Uploads) -> None:
    with pytest.raises(Broken):
        await uploads.receive(PARENT, messages(FILES, breaks_in="b.txt"), request_id=REQUEST_ID)
    with pytest.raises(InvalidArgument) as caught:
        await uploads.receive(PARENT, messages(FILES, without=2), request_id=REQUEST_ID)
    assert caught.value.reason == "UPLOAD_TRUNCATED"
    changed = {"a.txt": b"first fils"} | {path: data for path, data in FILES.items() if path != "a.txt"}
    with pytest.raises(InvalidArgument):  # a file that changed in between is another file
        await uploads.receive(PARENT, messages(changed, without=1), request_id=REQUEST_ID)
