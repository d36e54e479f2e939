"""What a model writes, by its files alone."""

import json
from pathlib import Path
from typing import Any

import pytest

from examples.tinyworld import recipe
from omnialign.modeling.written import written_by_folder
from omnialign.v1 import content_pb2

TEXT, IMAGE, AUDIO, VIDEO = (
    content_pb2.MODALITY_TEXT,
    content_pb2.MODALITY_IMAGE,
    content_pb2.MODALITY_AUDIO,
    content_pb2.MODALITY_VIDEO,
)


def folder(root: Path, config: Any, *others: str, codecs: Any = None) -> Path:
    (root / "config.json").write_text(json.dumps(config))
    for name in others:
        (root / name).touch()
    if codecs is not None:
        (root / "codecs.json").write_text(json.dumps(codecs))
    return root


@pytest.mark.parametrize(
    ("config", "others", "expected"),
    [
        ({"model_type": "llama"}, (), (TEXT,)),
        ({"model_type": "emu3"}, (), (TEXT, IMAGE)),
        ({"model_type": "chameleon"}, (), (TEXT,)),
        ({"model_type": "chameleon"}, ("image_decoder",), (TEXT, IMAGE)),
        ({"model_type": "llama"}, ("reward_head.safetensors",), ()),
        (["hostile"], (), (TEXT,)),
    ],
)
def test_a_family_writes_what_it_is_known_for(tmp_path, config, others, expected) -> None:
    assert written_by_folder(folder(tmp_path, config, *others)) == expected


@pytest.mark.parametrize("codecs", [[], {"codecs": 3}, {"codecs": [1, {"type": ["x"]}, {"type": "none"}]}])
def test_codecs_that_are_none_write_nothing(tmp_path, codecs) -> None:
    assert written_by_folder(folder(tmp_path, {}, "tokenizer.json", codecs=codecs)) == (TEXT,)


def test_a_token_model_writes_what_it_has_codecs_for() -> None:
    assert written_by_folder(Path(recipe.__file__).parent / "model") == (TEXT, IMAGE, AUDIO, VIDEO)


def test_of_a_folder_that_is_not_there_nobody_knows(tmp_path) -> None:
    assert written_by_folder(tmp_path / "gone") == ()
