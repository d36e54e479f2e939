"""Weights that are not those of their configuration: refused with their names, before they take memory."""

import json
import logging
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from omnialign.errors import FailedPrecondition, InvalidArgument
from omnialign.modeling.weights_check import WeightsMismatch, check_weights
from services.inference.config import EngineConfig
from services.inference.transformers.engine import open_transformers_engine
from tests.model_factory.families import FAMILIES
from tests.model_factory.family import add_talker

TINY = Path("examples/tinyworld/model")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return Path(shutil.copytree(TINY, tmp_path / "model"))


def rewrite_config(folder: Path, **values: Any) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | values))


def rewrite_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    weights = {**load_file(folder / "model.safetensors"), **changes}
    kept = {name: tensor for name, tensor in weights.items() if tensor is not None}
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def test_weights_are_checked_without_a_word_of_the_library(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    library = logging.getLogger("transformers")
    library.addHandler(caplog.handler)
    try:
        check_weights(folder)
    finally:
        library.removeHandler(caplog.handler)
    assert caplog.messages == []


def test_more_layers_than_the_file_has_are_named(folder: Path) -> None:
    rewrite_config(folder, num_hidden_layers=9)
    with pytest.raises(WeightsMismatch, match=r"lack model\.layers\.4") as caught:
        check_weights(folder)
    assert caught.value.reason == "MODEL_WEIGHTS_MISMATCH"
    assert "model.layers.8.mlp.up_proj.weight" in caught.value.metadata["missing"]


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"model.norm.weight": None}, "lack model.norm.weight"),
        ({"model.extra.weight": torch.zeros(3)}, "have besides model.extra.weight"),
        ({"model.norm.weight": torch.zeros(3)}, ""),
    ],
)
def test_weights_that_are_missing_unknown_or_of_another_size_are_refused(
    folder: Path, changes: Any, named: str
) -> None:
    rewrite_weights(folder, **changes)
    with pytest.raises(WeightsMismatch) as caught:
        check_weights(folder)
    assert named in caught.value.message


def test_fewer_layers_than_the_file_has_are_refused(folder: Path) -> None:
    rewrite_config(folder, num_hidden_layers=3)
    with pytest.raises(WeightsMismatch, match=r"have besides model\.layers\.3"):
        check_weights(folder)


@pytest.mark.parametrize("sizes", [{"vocab_size": 10**12}, {"hidden_size": 10**9}, {"intermediate_size": 10**9}])
def test_sizes_beyond_the_file_take_no_memory(folder: Path, sizes: dict[str, int]) -> None:
    rewrite_config(folder, **sizes)
    with pytest.raises(InvalidArgument):
        check_weights(folder)


async def test_the_engine_refuses_such_a_model_and_takes_it_once_mended(folder: Path) -> None:
    config = (folder / "config.json").read_text()
    rewrite_config(folder, num_hidden_layers=9)
    async with open_transformers_engine(EngineConfig(threads=1)) as engine:
        with pytest.raises(FailedPrecondition) as caught:
            await engine.load(f"file://{folder}")
        assert caught.value.reason == "MODEL_WEIGHTS_MISMATCH"
        assert "model.layers.4" in caught.value.message and f"file://{folder}" in caught.value.message
        (folder / "config.json").write_text(config)
        await engine.load(f"file://{folder}")


@pytest.mark.parametrize("name", ["qwen2_5_vl", "qwen2_5_omni", "chameleon", "janus"])
def test_whole_models_of_other_families_pass(tmp_path: Path, name: str) -> None:
    folder = FAMILIES[name].build(tmp_path / name)
    check_weights(folder)
    if name == "qwen2_5_omni":
        add_talker(folder)
        check_weights(folder)
