"""Samples in tar files become rows, and what is hostile in an archive sets its sample aside, or refuses the file."""

import gzip
import io
import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from omnialign.client import AsyncClient
from omnialign.content import text_of
from omnialign.errors import InvalidArgument
from omnialign.v1 import record_pb2
from services.data.importing import samples
from services.data.importing.refusal import MalformedRow
from services.data.importing.samples import read_samples
from tests.services.data.importing.test_importer import mp4, png, wav

NAME = "projects/default/datasets/archive"
Member = tuple[str, Any]


def write(path: Path, members: Sequence[Member]) -> Path:
    """A tar file of members: a name with bytes, with what is written as JSON, or with the type of something else."""
    with tarfile.open(path, "w:gz" if path.suffix in (".gz", ".tgz") else "w") as archive:
        for name, found in members:
            info = tarfile.TarInfo(name)
            if isinstance(found, tarfile.TarInfo):
                info.type, info.linkname = found.type, found.linkname
                archive.addfile(info)
                continue
            data = found if isinstance(found, bytes) else json.dumps(found).encode()
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return path


def special(kind: bytes, link: str = "") -> tarfile.TarInfo:
    info = tarfile.TarInfo("x")
    info.type, info.linkname = kind, link
    return info


def sample(key: str, index: int) -> list[Member]:
    row = {"question": f"ask {index}", "response_1": "a", "response_2": "b", "overall_response": 1}
    return [(f"{key}.json", row), (f"{key}.png", png(index))]


async def run(client: AsyncClient, source: Path, **options: Any) -> Any:
    async for done in client.import_dataset("archive", str(source), **options):
        last = done
    return last


async def records(client: AsyncClient) -> list[record_pb2.Record]:
    return sorted([one async for one in client.stream_records(NAME)], key=lambda one: text_of(one.prompt))


@pytest.mark.parametrize("name", ["train.tar", "train.tar.gz", "train.tgz"])
async def test_a_sample_is_a_row_with_its_media(client: AsyncClient, tmp_path: Path, name: str) -> None:
    folder = ("a/", special(tarfile.DIRTYPE))
    shard = write(tmp_path / name, [folder, *sample("a/000", 0), *sample("a/001", 1)])
    done = await run(client, shard, subtask="ti2t")
    assert (done.rows_total, done.records_imported) == (2, 2)
    first = (await records(client))[0]
    assert await client.get_media(first.prompt.parts[0].media.sha256) == png(0)
    assert (await run(client, shard, subtask="ti2t")).rows_skipped == 2


async def test_texts_and_media_are_columns_by_their_extensions(client: AsyncClient, tmp_path: Path) -> None:
    shard = write(tmp_path / "plain.tar", [("0.txt", b"Describe it.\n"), ("0.cls", b"3"), ("0.png", png(1))])
    assert dict(read_samples(shard))[1] == {"txt": "Describe it.", "cls": 3, "image": png(1)}
    done = await run(client, shard, subtask="ti2t", renamed_columns={"txt": "prompt"})
    assert (done.records_imported, [one.column for one in done.unread_columns]) == (1, ["cls"])
    two = write(tmp_path / "two.tar", [("0.b.png", png(1)), ("0.a.png", png(2)), ("0.wav", wav(1))])
    assert dict(read_samples(two))[1] == {"images": [png(2), png(1)], "audio": wav(1)}


async def test_media_that_the_json_names_are_found_by_name(client: AsyncClient, tmp_path: Path) -> None:
    parts = [
        {"type": "audio", "audio": "7.b.wav"}, {"type": "text", "text": "then"}, {"type": "video", "video": "7.a.mp4"},
    ]  # fmt: skip
    said = [{"role": "user", "content": parts}, {"role": "assistant", "content": "yes"}]
    write(tmp_path / "t.tar", [("7.a.mp4", mp4(1)), ("7.json", {"messages": said}), ("7.b.wav", wav(1))])
    assert (await run(client, tmp_path / "t.tar")).records_imported == 1
    (found,) = await records(client)
    kinds = [part.media.mime_type or part.text for part in found.prompt.parts]
    assert kinds == ["audio/wav", "then", "video/mp4"]


WRONG: dict[str, Member] = {
    "is a link": ("x.png", special(tarfile.SYMTYPE, "/etc/passwd")),
    "'x.dat' is a link": ("x.dat", special(tarfile.LNKTYPE, "a.json")),
    "is no regular file": ("x.dat", special(tarfile.CHRTYPE)),
    "is there twice": ("x.json", b"{}"),
    "a name that leads out": ("../x.json", b"{}"),
    "leads out of the archive": ("/x.json", b"{}"),
    "the member x.txt is not text in UTF-8: invalid start byte at byte 0": ("x.txt", b"\xff\xfe"),
    "the member x.caption is not text in UTF-8": ("x.caption", b"a\xff"),
    "the member x.json holds a list, and an object is taken": ("x.json", b"[1]"),
    "the member x.json holds nothing, and": ("x.json", b"null"),
    "the member x.json is not JSON, which is taken: Expecting property name": ("x.json", b"{"),
    "the member x.json is not JSON, which is taken: Expecting value": ("x.json", b""),
    "the member x.cls is not a whole number, which is taken": ("x.cls", b"cat"),
}


def test_what_is_hostile_or_malformed_is_a_row_with_a_message_of_its_own(tmp_path: Path) -> None:
    messages = set[str]()
    for wrong, member in WRONG.items():
        first: list[Member] = [("x.json", b"{}")] if wrong == "is there twice" else []
        write(tmp_path / "t.tar", [*first, member, *sample("good", 1)])
        (_, row), (_, good) = read_samples(tmp_path / "t.tar")
        assert isinstance(row, MalformedRow) and wrong in row.detail, row
        assert isinstance(good, dict)
        messages.add(row.detail)
    assert len(messages) == len(WRONG) >= 12


async def test_a_malformed_sample_is_set_aside_alone(client: AsyncClient, tmp_path: Path) -> None:
    write(tmp_path / "t.tar", [("x.dat", special(tarfile.SYMTYPE, "/etc/passwd")), *sample("good", 1)])
    done = await run(client, tmp_path / "t.tar", subtask="ti2t")
    assert (done.records_imported, dict(done.quarantine_reasons)) == (1, {"ROW_MALFORMED": 1})
    (aside,) = [one.quarantine async for one in client.stream_quarantine(NAME)]
    assert aside.message.startswith("t.tar, row 1: the sample x cannot be read")


def test_a_member_that_is_too_large_is_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(samples, "MAX_SAMPLE_BYTES", 1000)
    write(tmp_path / "t.tar", [("x.png", b"0" * 1001), ("y.txt", b"fine")])
    (_, first), (_, second) = read_samples(tmp_path / "t.tar")
    assert isinstance(first, MalformedRow)
    assert second == {"txt": "fine"}


def test_an_archive_that_grows_out_of_all_proportion_is_refused(tmp_path: Path) -> None:
    zeros = bytes(80 * 1024 * 1024)
    bomb = write(tmp_path / "t.tgz", [("x.dat", zeros), ("y.dat", b"0")])
    with pytest.raises(InvalidArgument) as caught:
        list(read_samples(bomb))
    assert caught.value.reason == "SOURCE_EXPANDS"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"no archive" * 100, "SOURCE_MALFORMED"),
        (gzip.compress(b"no archive" * 100, mtime=0), "SOURCE_MALFORMED"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "SOURCE_IS_POINTER"),
        (None, "SOURCE_MALFORMED"),
    ],
)
async def test_what_is_no_whole_archive_is_refused_before_anything_is_written(
    client: AsyncClient, tmp_path: Path, data: bytes | None, reason: str
) -> None:
    shard = write(tmp_path / "t.tar", [*sample("0", 0), *sample("1", 1)])
    shard.write_bytes(data or shard.read_bytes()[:1400])
    with pytest.raises(InvalidArgument) as caught:
        await run(client, shard, subtask="ti2t")
    assert caught.value.reason == reason
    assert [one async for one in client.list_datasets()] == []


async def test_the_archive_of_a_folder_is_no_shard(client: AsyncClient, tmp_path: Path) -> None:
    write(tmp_path / "t.tar", [("data/train.jsonl", b"{}"), ("data/1.png", png(1))])
    with pytest.raises(InvalidArgument, match="unpack it") as caught:
        await run(client, tmp_path / "t.tar", subtask="t2t")
    assert caught.value.reason == "SOURCE_UNSUPPORTED"


async def test_shards_are_named_by_a_pattern_and_an_archive_beside_other_data_is_not_read(
    client: AsyncClient, tmp_path: Path
) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    for index in range(3):
        write(folder / f"shard-{index:03d}.tar", sample(str(index), index))
    assert (await run(client, folder / "shard-{000..001}.tar", subtask="ti2t")).rows_total == 2
    assert (await run(client, folder / "shard-*.tar", subtask="ti2t")).rows_total == 3
    (folder / "t2t.jsonl").write_text(json.dumps({"prompt": "only text"}))
    done = await run(client, folder)
    assert (done.rows_total, len(done.skipped_files)) == (1, 3)
    assert "beside other data" in done.skipped_files[0].why


async def test_what_an_export_writes_as_webdataset_comes_back(client: AsyncClient, tmp_path: Path) -> None:
    shard = write(tmp_path / "first.tar", [*sample("0", 0), *sample("1", 1)])
    await run(client, shard, subtask="ti2t")
    before = await records(client)
    members = list[Member]()
    for number, record in enumerate(before):
        key, medium = f"{number:09d}", record.prompt.parts[0].media
        found = json_format.MessageToDict(record, preserving_proto_field_name=True)
        members += [(f"{key}.json", found | {"media_files": {medium.sha256: f"{key}.0.png"}})]
        members += [(f"{key}.0.png", await client.get_media(medium.sha256))]
    await client.delete_dataset(NAME)
    done = await run(client, write(tmp_path / "train-00000-of-00001.tar", members))
    assert (done.records_imported, done.file_formats[0].format) == (2, "records")
    for old, new in zip(before, await records(client), strict=True):
        new.id = old.id
        assert new == old
