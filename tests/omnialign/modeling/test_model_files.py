"""What the files of a model may name and claim, before any library reads them."""

import json
import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from omnialign.errors import InvalidArgument
from omnialign.modeling.adapters import load_adapter
from omnialign.modeling.model_files import FolderFiles, check_files, is_inside, is_plain_name, weight_paths

TINY = Path("examples/tinyworld/model")
INDEX = "model.safetensors.index.json"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A model in two files with an index, beside another project's."""
    for name in ("mine", "theirs"):
        found = tmp_path / name
        found.mkdir()
        (found / "config.json").write_text(json.dumps({"model_type": "llama", "num_hidden_layers": 2}))
        for shard in ("a", "b"):
            save_file({shard: np.zeros(4, np.float32)}, found / f"{shard}.safetensors")
        write_index(found, {"a": "a.safetensors", "b": "b.safetensors"})
    return tmp_path / "mine"


def write_index(folder: Path, weight_map: Any, name: str = INDEX) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    (folder / name).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def refusal(folder: Path) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        check_files(FolderFiles(folder))
    with pytest.raises(InvalidArgument) as at_load:
        load_adapter(folder)
    assert at_load.value.reason == caught.value.reason
    return caught.value


def test_a_model_whose_manifests_name_its_own_files_is_taken(folder: Path) -> None:
    check_files(FolderFiles(folder))
    assert weight_paths(FolderFiles(folder)) == ["a.safetensors", "b.safetensors"]


@pytest.mark.parametrize(
    "name",
    [
        "../theirs/a.safetensors",
        "a.safetensors/../../theirs/a.safetensors",
        "/etc/passwd",
        "..",
        ".",
        "",
        "sub/a.safetensors",
        "..\\theirs\\a.safetensors",
        "a.safetensors\0",
        "absent.safetensors",
        3,
        ["a.safetensors"],
    ],
)
@pytest.mark.parametrize("index", [INDEX, "model.safetensors.index.fp16.json", "codec/model.safetensors.index.json"])
def test_an_index_that_names_anything_but_a_file_of_its_folder_is_refused(folder: Path, name: Any, index: str) -> None:
    if "/" in index:
        (folder / "codec").mkdir()
        shutil.copy(folder / "a.safetensors", folder / "codec")
    write_index(folder, {"a": "a.safetensors", "b": name}, index)
    error = refusal(folder)
    assert error.reason == "MODEL_MANIFEST_INVALID"
    assert index in error.message


def test_a_configuration_that_names_weights_elsewhere_is_refused(folder: Path) -> None:
    (folder / "config.json").write_text(json.dumps({"transformers_weights": "../theirs/a.safetensors"}))
    assert refusal(folder).reason == "MODEL_MANIFEST_INVALID"
    (folder / "config.json").write_text(json.dumps({"transformers_weights": "b.safetensors"}))
    check_files(FolderFiles(folder))
    assert weight_paths(FolderFiles(folder)) == ["b.safetensors"]


def test_settings_without_weights_are_checked_as_far_as_they_go(folder: Path) -> None:
    for shard in ("a", "b"):
        (folder / f"{shard}.safetensors").unlink()
    check_files(FolderFiles(folder))
    write_index(folder, {"a": "../theirs/a.safetensors"})
    assert refusal(folder).reason == "MODEL_MANIFEST_INVALID"


@pytest.mark.parametrize("place", ["adapter_config.json", "codec/adapter_config.json"])
def test_an_adapter_within_a_model_is_refused(folder: Path, place: str) -> None:
    (folder / place).parent.mkdir(exist_ok=True)
    (folder / place).write_text(json.dumps({"peft_type": "LORA", "base_model_name_or_path": "../theirs"}))
    assert refusal(folder).reason == "MODEL_HAS_ADAPTER"


@pytest.mark.parametrize("name", ["codec/pytorch_model.bin", "shard-00000-model-00001-of-00002.safetensors"])
def test_weights_in_formats_that_are_not_read_are_refused(folder: Path, name: str) -> None:
    (folder / name).parent.mkdir(exist_ok=True)
    shutil.copy(folder / "a.safetensors", folder / name)
    assert refusal(folder).reason in ("MODEL_HAS_PICKLE", "MODEL_MANIFEST_INVALID")


@pytest.mark.parametrize(
    "config",
    [
        {"num_hidden_layers": 10**9},
        {"text_config": {"n_layer": 10**9}},
        {"vision_config": {"depths": [2, 10**9]}},
        {"num_labels": 10**9},
        {"vocab_size": 10**30},
        {"vocab_size": -(10**30)},
    ],
)
def test_sizes_that_no_model_has_are_refused_before_anything_is_built(folder: Path, config: dict[str, Any]) -> None:
    (folder / "config.json").write_text(json.dumps({"model_type": "llama", **config}))
    started = time.process_time()
    assert refusal(folder).reason == "MODEL_CONFIG_INVALID"
    assert time.process_time() - started < 1


@pytest.mark.parametrize("size", [{"height": 10**9, "width": 8}, {"longest_edge": 10**12}])
def test_a_processor_that_makes_pictures_beyond_memory_is_refused(folder: Path, size: dict[str, int]) -> None:
    processor = folder / "preprocessor_config.json"
    processor.write_text(json.dumps({"size": {"shortest_edge": 56 * 56, "longest_edge": 28 * 28 * 16384}}))
    check_files(FolderFiles(folder))
    processor.write_text(json.dumps({"size": size}))
    assert refusal(folder).reason == "MODEL_CONFIG_INVALID"


@pytest.mark.parametrize(
    "text", ["", "[]", "nan", "[" * 100_000, '{"a": ' * 50_000, '{"a": 1' + "0" * 5000 + "}", "\x80"]
)
@pytest.mark.parametrize("name", ["config.json", INDEX])
def test_a_manifest_that_is_no_object_is_refused(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text, "latin-1")
    assert refusal(folder).reason in ("MODEL_CONFIG_INVALID", "MODEL_MANIFEST_INVALID")


@given(st.text(max_size=12) | st.lists(st.sampled_from(["..", ".", "/", "a", "\\", "\0"]), max_size=6).map("".join))
def test_a_plain_name_never_leads_out_of_its_folder(name: str) -> None:
    inside = Path("/models/mine")
    if is_plain_name(name):
        assert (inside / name).parent == inside and name not in (".", "..")
    if is_inside(name):
        assert Path("/models/mine", name).is_relative_to(inside) and ".." not in Path(name).parts


def test_the_models_that_are_shipped_pass() -> None:
    check_files(FolderFiles(TINY))
