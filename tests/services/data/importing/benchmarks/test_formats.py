"""Which benchmark a file is of, and what its answers are made of, by its name."""

from pathlib import Path

import pytest

from omnialign.errors import InvalidArgument
from services.data.importing.sources import find_files

NAMES = [
    ("EvalAnything-AMU/config.json", "amu", "t2t", "test"),
    ("eval_anything_amu.json", "amu", "t2t", "test"),
    ("EvalAnything-InstructionFollowing/audio_instruct/test-00000-of-00001.parquet", "instruction_following", "t2a",
     "test"),
    ("EvalAnything-InstructionFollowing/text_instruct.json", "instruction_following", "t2t", "test"),
    ("EvalAnything-Selection_Synergy/data/test.parquet", "selection", "t2t", "test"),
    ("OmniBench/dataset/batch-5_1142_20240817.jsonl", "multiple_choice", "t2t", "test"),
    ("VL-RewardBench/data/train-00000-of-00001.parquet", "preference", "t2t", "train"),
    ("OmniRewardBench/text_image_to_image/test.parquet", "preference", "ti2i", "test"),
    ("Omni-RewardBench/text_to_video/test.parquet", "preference", "t2v", "test"),
    ("mend/benchmark-instruction_following/text-to-video.jsonl", "instruction_following", "t2v", "test"),
    ("mend/benchmark-amu/text-audio-video-to-text.jsonl", "amu", "tav2t", "test"),
    ("text-to-text/preference.json", "", "t2t", "train"),
]  # fmt: skip


@pytest.mark.parametrize(("name", "form", "subtask", "split"), NAMES)
def test_names_tell_benchmark_task_and_split(tmp_path: Path, name: str, form: str, subtask: str, split: str) -> None:
    path = tmp_path / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.touch()
    (found,) = find_files(tmp_path).files
    assert (found.format, found.subtask, found.split) == (form, subtask, split)


def test_the_request_tells_where_the_name_does_not(tmp_path: Path) -> None:
    (tmp_path / "rows.json").touch()
    (found,) = find_files(tmp_path, form="preference", subtask="t2i").files
    assert (found.format, found.subtask) == ("preference", "t2i")


def test_a_task_of_something_else_is_skipped_with_why(tmp_path: Path) -> None:
    for task in ("text_to_3d", "text_to_image"):
        (tmp_path / "OmniRewardBench" / task).mkdir(parents=True)
        (tmp_path / "OmniRewardBench" / task / "test.json").touch()
    found = find_files(tmp_path)
    assert [file.subtask for file in found.files] == ["t2i"]
    assert "something other than text, images" in found.skipped["OmniRewardBench/text_to_3d/test.json"]


@pytest.mark.parametrize(
    ("name", "options", "reason"),
    [
        ("rows.json", {"form": "mmlu"}, "FORMAT_UNKNOWN"),
        ("rows.json", {"form": "amu", "subtask": "tx2t"}, "SUBTASK_UNKNOWN"),
        ("EvalAnything-InstructionFollowing.json", {}, "SUBTASK_UNKNOWN"),
    ],
)
def test_what_is_not_told_is_refused(tmp_path: Path, name: str, options: dict[str, str], reason: str) -> None:
    (tmp_path / name).touch()
    with pytest.raises(InvalidArgument) as refused:
        find_files(tmp_path / name, **options)
    assert refused.value.reason == reason
