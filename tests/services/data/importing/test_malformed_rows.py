"""Rows of align-anything, and rows with the features of `datasets`, that no record can be made of, and what is said."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from omnialign.media import write_audio, write_image
from omnialign.v1 import record_pb2
from services.data.config import DataConfig
from services.data.importing.identity import Digests
from services.data.importing.media_files import MediaFiles
from services.data.importing.media_reader import MediaReader
from services.data.importing.reading import Reading
from services.data.importing.rows import RowReader
from services.data.importing.sources import SourceFile
from services.data.media_validation import MediaLimits

PNG = write_image(np.zeros((8, 8, 3), dtype=np.uint8))
WAV = write_audio(np.zeros(800, dtype=np.float32), 8000)
PICTURES = {
    "prompt": "A cat",
    "image_1": "a.png",
    "image_2": {"bytes": PNG, "path": None},
    "overall_image": 1,
    "overall_textfeedback": "so",
    "safety_rate_1": 3,
    "s_rationale_1": "ok",
    "text_1_feedback": "##Critique: dark",
}
TYPED = {"prompt": "What?", "completion": "That.", "label": True}

Case = tuple[dict[str, Any], str, str]
ALIGN_ANYTHING: list[Case] = [
    ({"overall_image": 3}, "LABEL_INVALID", "column overall_image: the overall label is 3, and 1 or 2 is taken"),
    ({"overall_image": "first"}, "LABEL_INVALID", "the overall label is 'first', and 1 or 2 is taken"),
    ({"prompt": " "}, "PROMPT_MISSING", "no prompt in prompt or question; its columns are prompt, image_1"),
    ({"prompt": 7}, "PROMPT_MISSING", "column prompt: the prompt is a number, and text is taken"),
    ({"safety_rate_1": 4}, "SCORE_INVALID", "column safety_rate_1: the score is 4, and 0, 1, 2 or 3 is taken"),
    ({"safety_rate_1": "good"}, "SCORE_INVALID", "the score is 'good', and 0, 1, 2 or 3 is taken"),
    ({"image_1": None}, "RESPONSE_MISSING", "the row has response 2 and no response 1"),
    ({"image_2": {"path": "none.png"}}, "MEDIA_MISSING", "column image_2 (none.png): there is no such media file"),
    (
        {"image_2": {"bytes": b"nonsense"}},
        "MEDIA_UNDECODABLE",
        "column image_2: The bytes, which begin with b'nonsense'",
    ),
    ({"image_2": {"bytes": WAV}}, "MEDIA_TYPE_MISMATCH", "The media claims to be image, but its bytes are audio/wav"),
    ({"image_2": {"bytes": PNG[:-20]}}, "MEDIA_TRUNCATED", "column image_2: The picture is cut off"),
    ({"image_2": {"bytes": b""}}, "MEDIA_EMPTY", "column image_2: The media is empty"),
    ({"image_2": "http://x/y.png"}, "MEDIA_PATH_FORBIDDEN", "URLs are not fetched"),
    ({"labels": "["}, "LABELS_INVALID", "column labels: the labels are not JSON"),
    ({"labels": [1]}, "LABELS_INVALID", "column labels: the labels are not an object"),
    ({"overall_textfeedback": 7}, "TEXT_EXPECTED", "column overall_textfeedback: the column holds a number, and text"),
    ({"text_1_feedback": ["x"]}, "TEXT_EXPECTED", "column text_1_feedback: the column holds a list, and text"),
    ({"split": 7}, "TEXT_EXPECTED", "column split: the column holds a number, and text is taken"),
]
FEATURES: list[Case] = [
    (
        {"images": [{"bytes": None, "path": None}]},
        "MEDIA_MISSING",
        "column images: the value is nothing, and a path or",
    ),
    ({"images": [7]}, "MEDIA_MISSING", "column images: the value is a number, and a path or bytes are taken"),
    ({"images": [[PNG]]}, "MEDIA_MISSING", "column images: the value is a list, and a path or bytes are taken"),
    ({"images": [{"bytes": "text"}]}, "MEDIA_UNDECODABLE", "column images: `bytes` holds text, and bytes are taken"),
    ({"images": [{"bytes": PNG}, {"bytes": b"x"}]}, "MEDIA_UNDECODABLE", "The bytes, which begin with b'x', are no"),
    ({"videos": [{"bytes": PNG}]}, "MEDIA_TYPE_MISMATCH", "column videos: The media claims to be video, but its bytes"),
    ({"audio": {"bytes": PNG}}, "MEDIA_TYPE_MISMATCH", "column audio: The media claims to be audio, but its bytes"),
    ({"audios": [{"array": [0.1]}]}, "MEDIA_UNDECODABLE", "`sampling_rate`, is nothing, and a whole number of hertz"),
    ({"audios": [{"array": [0.1], "sampling_rate": "x"}]}, "MEDIA_UNDECODABLE", "`sampling_rate`, is text, and"),
    ({"audios": [{"array": [0.1], "sampling_rate": -1}]}, "MEDIA_UNDECODABLE", "a rate of -1 hertz, and 1 to 768000"),
    ({"audios": [{"array": [], "sampling_rate": 8000}]}, "MEDIA_UNDECODABLE", "in 1 dimensions is no sound"),
    ({"audios": [{"array": [[[0.1]]], "sampling_rate": 8000}]}, "MEDIA_UNDECODABLE", "in 3 dimensions is no sound"),
    ({"audios": [{"array": [float("nan")], "sampling_rate": 8000}]}, "MEDIA_UNDECODABLE", "the samples reach"),
    ({"images": [{"bytes": PNG}], "image": {"bytes": PNG}}, "COLUMN_TWICE", "both images and image have a value"),
    ({"label": "yes"}, "LABEL_INVALID", "column label: the label is 'yes', and true or false is taken"),
]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "a.png").write_bytes(PNG)
    return tmp_path


def read(folder: Path, row: Any, form: str, subtask: str) -> record_pb2.Record:
    source = SourceFile(folder / "rows.parquet", folder, subtask, "train", format=form, told_by="the request")
    files = MediaFiles(source, keep=MediaReader(MediaLimits.of(DataConfig(root=folder)), Digests()))
    return RowReader(source, files=files, reading=Reading()).record(1, row)[0]


@pytest.mark.parametrize(
    ("whole", "form", "subtask", "cases"),
    [(PICTURES, "", "t2i", ALIGN_ANYTHING), (TYPED, "trl", "", FEATURES)],
    ids=["align-anything", "features of datasets"],
)
def test_each_malformed_row_says_where_it_is_what_was_found_and_what_is_taken(
    folder: Path, whole: dict[str, Any], form: str, subtask: str, cases: list[Case]
) -> None:
    assert not read(folder, whole, form, subtask).HasField("quarantine")
    messages = set[str]()
    for changed, reason, text in cases:
        found = read(folder, whole | changed, form, subtask).quarantine
        assert (found.reason, text in found.message) == (reason, True), found.message
        assert found.message.startswith("rows.parquet, row 1")
        messages.add(found.message)
    assert len(messages) == len(cases) >= 12
