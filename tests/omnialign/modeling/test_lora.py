"""What is read of an adapter_config.json, and why others are refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save_file

from omnialign.errors import InvalidArgument
from omnialign.modeling.lora import LoraSettings, check_base_in_project, is_lora, literal_config, parse_lora, read_lora

BASE = "projects/p/models/base/versions/3"
PLAIN = {"peft_type": "LORA", "r": 8, "base_model_name_or_path": BASE}
REASONS = {"LORA_CONFIG_INVALID", "LORA_UNSUPPORTED", "BASE_MODEL_INVALID"}


def parse(config: Any) -> LoraSettings:
    return parse_lora(json.dumps(config).encode(), name="projects/p/models/lora/versions/1")


def refusal(config: Any) -> InvalidArgument:
    with pytest.raises(InvalidArgument) as caught:
        parse(config)
    return caught.value


@pytest.mark.parametrize(
    ("named", "base"),
    [
        (BASE, BASE),
        ("file:///models/base", "file:///models/base"),
        ("/models/my base/", "file:///models/my%20base"),
    ],
)
def test_a_base_is_a_version_or_a_folder(named: str, base: str) -> None:
    assert parse({**PLAIN, "base_model_name_or_path": named}) == LoraSettings(base, 8)


@pytest.mark.parametrize(
    "base", ["meta-llama/Llama-3", "base", "./base", "", None, 3, "projects/p/models/base", f"{BASE[:-1]}-", "/a\0b"]
)
def test_any_other_base_is_refused_with_what_to_write(base: object) -> None:
    error = refusal({**PLAIN, "base_model_name_or_path": base})
    assert error.reason == "BASE_MODEL_INVALID"
    assert "base_model_name_or_path" in error.message


def test_the_rank_is_the_largest_of_all_modules() -> None:
    assert parse({**PLAIN, "rank_pattern": {"q_proj": 4, "v_proj": 32}}).rank == 32


@pytest.mark.parametrize(
    "change",
    [
        {"peft_type": "LOHA"},
        {"peft_type": None},
        {"use_dora": True},
        {"modules_to_save": ["lm_head"]},
        {"bias": "all"},
        {"lora_bias": True},
        {"init_lora_weights": "pissa_niter_4"},
        {"layer_replication": [[0, 2]]},
        {"megatron_config": {"a": 1}},
    ],
)
def test_more_than_a_plain_lora_is_refused_with_the_mend(change: dict[str, object]) -> None:
    error = refusal(PLAIN | change)
    assert error.reason == "LORA_UNSUPPORTED"
    assert "merge_and_unload" in error.message


SLOW = "(a|aa)+$"


@pytest.mark.parametrize("field", ["rank_pattern", "alpha_pattern"])
def test_a_pattern_where_a_name_belongs_is_refused(field: str) -> None:
    assert refusal(PLAIN | {field: {SLOW: 8}}).reason == "LORA_UNSUPPORTED"
    for name in ("q_proj", r"^model\.layers\.0\.self_attn.q_proj$", "layers.11.mlp"):
        parse(PLAIN | {field: {name: 8}})


@pytest.mark.parametrize(
    "change",
    [
        {"target_modules": [["q_proj"]]},
        {"target_modules": ["q" * 1000]},
        {"target_modules": ["q"] * 100_000},
        {"target_modules": {"q_proj": 1}},
        {"exclude_modules": 3},
        {"layers_pattern": [3]},
        {"alpha_pattern": ["q_proj"]},
    ],
)
def test_names_of_modules_that_are_none_are_refused(change: dict[str, object]) -> None:
    assert refusal(PLAIN | change).reason == "LORA_CONFIG_INVALID"


@pytest.mark.parametrize(
    "patterns",
    [{"target_modules": SLOW}, {"target_modules": ["q"], "exclude_modules": SLOW}, {"layers_pattern": [SLOW]}],
)
def test_patterns_become_the_names_that_the_weights_have(tmp_path: Path, patterns: dict[str, object]) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps({**PLAIN, **patterns}))
    weights = [f"base_model.model.{module}.lora_{side}.weight" for module in ("layers.0.q", "head") for side in "AB"]
    save_file({name: np.zeros((2, 2), np.float32) for name in weights}, tmp_path / "adapter_model.safetensors")
    config = literal_config(tmp_path, name="m")
    assert config["target_modules"] == ["head", "layers.0.q"]
    assert not any(config.get(field) for field in ("exclude_modules", "layers_pattern", "layers_to_transform"))


def test_names_stay_as_they_are(tmp_path: Path) -> None:
    config = {**PLAIN, "target_modules": ["q_proj"], "layers_to_transform": [1], "layers_pattern": "layers"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(config))
    assert literal_config(tmp_path, name="m") == config


@pytest.mark.parametrize("change", [{"r": 0}, {"r": "8"}, {"r": True}, {"r": None}, {"rank_pattern": {"q": -1}}])
def test_a_rank_that_is_none_is_refused(change: dict[str, object]) -> None:
    assert refusal(PLAIN | change).reason == "LORA_CONFIG_INVALID"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)


@given(st.binary() | json_values.map(lambda value: json.dumps(value).encode()))
def test_whatever_the_file_holds_the_error_is_typed(text: bytes) -> None:
    with pytest.raises(InvalidArgument) as caught:
        parse_lora(text, name="m")
    assert caught.value.reason in REASONS


@given(st.sampled_from([*PLAIN, "rank_pattern", "alpha_pattern", "target_modules", "bias", "use_dora"]), json_values)
def test_whatever_a_field_holds_it_is_read_or_refused_by_a_typed_error(field: str, value: object) -> None:
    try:
        read = parse({**PLAIN, field: value})
    except InvalidArgument as error:
        assert error.reason in REASONS
        error.message.encode()
        "".join(error.metadata.values()).encode()
    else:
        assert read.rank >= 1


def test_a_folder_with_a_config_of_its_own_is_no_lora(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text(json.dumps(PLAIN))
    assert is_lora(tmp_path)
    assert read_lora(tmp_path, name="m").base == BASE
    (tmp_path / "config.json").write_text("{}")
    assert not is_lora(tmp_path)


@pytest.mark.parametrize("base", ["projects/other/models/base/versions/1", "projects/pp/models/b/versions/1", "/a"])
def test_a_registered_lora_has_its_base_in_its_project(base: str) -> None:
    check_base_in_project(parse(PLAIN), name="m", parent="projects/p")
    with pytest.raises(InvalidArgument) as caught:
        check_base_in_project(parse({**PLAIN, "base_model_name_or_path": base}), name="m", parent="projects/p")
    assert caught.value.reason == "BASE_MODEL_NOT_IN_PROJECT"
