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


def test_a_pattern_names_files_and_each_value_of_its_braces_must_be_there(tmp_path: Path) -> None:
    for name in ("t2t-000.jsonl", "t2t-001.jsonl", "deep/er/t2t-x.jsonl", ".t2t-hidden.jsonl"):
        path = tmp_path / "data" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text("{}")
    (tmp_path / "outside.jsonl").write_text("{}")
    (tmp_path / "data" / "t2t-link.jsonl").symlink_to(tmp_path / "outside.jsonl")

    def names(pattern: str) -> list[str]:
        return [file.name for file in find_files(tmp_path / pattern).files]

    assert names("data/*.jsonl") == names("data/t2t-{000..001}.jsonl") == ["t2t-000.jsonl", "t2t-001.jsonl"]
    assert names("data/t2t-{001,000}.json?") == ["t2t-000.jsonl", "t2t-001.jsonl"]
    assert names("data/**/t2t-x.jsonl") == ["deep/er/t2t-x.jsonl"]
    for pattern, reason in {
        "data/t2t-{000..002}.jsonl": "SOURCE_MISSING",
        "data/*.parquet": "SOURCE_MISSING",
        "data/{0..999999}.jsonl": "SOURCE_PATTERN_INVALID",
        "data/{0..999}{0..999}.jsonl": "SOURCE_PATTERN_INVALID",
        "data/a**b.jsonl": "SOURCE_PATTERN_INVALID",
    }.items():
        with pytest.raises(InvalidArgument) as caught:
            find_files(tmp_path / pattern)
        assert caught.value.reason == reason, pattern


@pytest.mark.parametrize("head", ["version https://git-lfs.github.com/spec/v1\n", "# xet version 0\n"])
def test_a_clone_without_its_data_says_what_fetches_them(tmp_path: Path, head: str) -> None:
    for name in ("a.parquet", "b.jsonl", "dataset_infos.json"):
        (tmp_path / name).write_text(head if name != "dataset_infos.json" else '{"features": 1}')
    for source in (tmp_path, tmp_path / "a.parquet", tmp_path / "*.parquet"):
        with pytest.raises(InvalidArgument, match="git lfs pull") as caught:
            find_files(source, subtask="t2t")
        assert caught.value.reason == "SOURCE_IS_POINTER"
    (tmp_path / "c.jsonl").write_text('{"prompt": "a"}')
    found = find_files(tmp_path, subtask="t2t")
    assert [file.name for file in found.files] == ["c.jsonl"]
    assert "git lfs pull" in found.skipped["a.parquet"]
