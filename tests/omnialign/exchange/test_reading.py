"""Files that are hostile, or no files at all."""

import json
import os

import pytest

from omnialign.errors import InvalidArgument
from omnialign.exchange.reading import read_json


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"[" * 200_000 + b"]" * 200_000, "FILE_UNREADABLE"),
        (b'[{"id": ' + b"9" * 5000 + b"}]", "FILE_UNREADABLE"),
        (b"\xff\xfe\x00", "FILE_UNREADABLE"),
        (b"", "FILE_UNREADABLE"),
        (b"[1, 2", "FILE_UNREADABLE"),
        (b'{"data": 1}', "FORMAT_UNKNOWN"),
    ],
    ids=["nested deeply", "a number of 5000 digits", "no UTF-8", "empty", "cut off", "no list"],
)
def test_what_is_no_list_of_tasks_is_one_sentence(tmp_path, data, reason):
    path = tmp_path / "tasks.json"
    path.write_bytes(data)
    with pytest.raises(InvalidArgument) as caught:
        read_json(path)
    assert caught.value.reason == reason
    assert len(caught.value.message) < 500


def test_a_file_of_a_gigabyte_is_not_read(tmp_path):
    path = tmp_path / "tasks.json"
    with path.open("wb") as file:
        os.truncate(file.fileno(), 1024**3)
    with pytest.raises(InvalidArgument, match="1,024 MiB, and up to 256 MiB are taken") as caught:
        read_json(path)
    assert caught.value.reason == "FILE_TOO_LARGE"


def test_what_is_no_file_is_not_opened(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", tmp_path, tmp_path / "missing"):
        with pytest.raises(InvalidArgument):
            read_json(path)


def test_the_bytes_come_with_the_tasks(tmp_path):
    path = tmp_path / "tasks.json"
    path.write_text(json.dumps([{"data": "é"}]))
    assert read_json(path) == (path.read_bytes(), [{"data": "é"}])
