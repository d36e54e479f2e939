"""What the names of files and folders say."""

from pathlib import Path

import pytest

from omnialign.errors import InvalidArgument
from services.data.importing.sources import find_files

NAMES = [
    ("text-to-text.parquet", "t2t", "train"),
    ("text-image-to-text/train.parquet", "ti2t", "train"),
    ("text-image-to-text-image/train_27k.json", "ti2ti", "train"),
    ("text_to_video/9k_train.json", "t2v", "train"),
    ("text-audio-to-text/val_1k.parquet", "ta2t", "val"),
    ("t2i-test.jsonl", "t2i", "test"),
    ("data/text-to-audio/prompts.parquet", "t2a", "prompts"),
    ("Text-Video-to-Text/Validation.JSON", "tv2t", "validation"),
    ("ti2ti/test/part-0.json", "ti2ti", "test"),
]


@pytest.mark.parametrize(("name", "subtask", "split"), NAMES)
def test_subtask_and_split_are_in_the_name(tmp_path: Path, name: str, subtask: str, split: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    (found,) = find_files(tmp_path).files
    assert (found.path, found.subtask, found.split) == (path, subtask, split)


def test_the_request_tells_where_the_name_does_not(tmp_path: Path) -> None:
    (tmp_path / "rows.json").touch()
    (found,) = find_files(tmp_path / "rows.json", subtask="t2v", split="test").files
    assert (found.subtask, found.split) == ("t2v", "test")


@pytest.mark.parametrize(
    ("make", "options", "reason"),
    [
        ("", {}, "SOURCE_EMPTY"),
        ("rows.json", {"form": "align-anything", "subtask": "tia2t"}, "SUBTASK_UNKNOWN"),
        ("t2i.json", {"subtask": "x2y"}, "SUBTASK_UNKNOWN"),
        (".hidden/t2i.json", {}, "SOURCE_EMPTY"),
    ],
)
def test_what_cannot_be_imported_is_refused(tmp_path: Path, make: str, options: dict[str, str], reason: str) -> None:
    if make:
        (tmp_path / make).parent.mkdir(exist_ok=True)
        (tmp_path / make).touch()
    with pytest.raises(InvalidArgument) as caught:
        find_files(tmp_path, **options)
    assert caught.value.reason == reason


def test_a_source_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InvalidArgument) as caught:
        find_files(tmp_path / "none")
    assert caught.value.reason == "SOURCE_MISSING"
