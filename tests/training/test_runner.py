"""A trained folder has everything that made the base model's whole, under the names that other programs look for."""

import json
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForCausalLM

from tests.model_factory.families import FAMILIES
from training.runner import write_model
from training.tuning import load_model

FILES = ("tokenizer.json", "processor_config.json", "chat_template.jinja", "generation_config.json", "codecs.json")


def test_processor_templates_and_codecs_go_along_and_old_weights_do_not(tmp_path: Path):
    base = tmp_path / "base"
    model = LlamaForCausalLM(
        LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    )
    model.save_pretrained(base)
    codec = {"type": "mimi", "options": {"folder": "codecs/audio"}, "begin": "<a>", "end": "</a>", "first_id": 8}
    for name in FILES:
        (base / name).write_text(json.dumps({"codecs": [codec, {"type": "tone_audio"}]}))
    for name in ("codecs/audio/model.safetensors", "additional_chat_templates/x.jinja", "original/old.pth", "old.bin"):
        (base / name).parent.mkdir(parents=True, exist_ok=True)
        (base / name).write_bytes(name.encode())
    state = {name: torch.zeros_like(value) for name, value in model.state_dict().items()}
    write_model(model, state, base_dir=base, to=tmp_path / "model")
    found = {str(path.relative_to(tmp_path / "model")) for path in (tmp_path / "model").rglob("*") if path.is_file()}
    assert found >= {*FILES, "config.json", "codecs/audio/model.safetensors", "additional_chat_templates/x.jinja"}
    assert not [name for name in found if name.endswith((".pth", ".bin"))]
    assert (tmp_path / "model" / "config.json").read_bytes() == (base / "config.json").read_bytes()


def test_a_part_of_a_larger_model_keeps_its_own_config(tmp_path: Path):
    base = tmp_path / "base"
    config = LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1)
    model = LlamaForCausalLM(config)
    model.save_pretrained(base)
    (base / "config.json").write_text(json.dumps({"model_type": "larger"}))
    write_model(model, model.state_dict(), base_dir=base, to=tmp_path / "model")
    assert json.loads((tmp_path / "model" / "config.json").read_text())["model_type"] == "llama"


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float32])
def test_training_holds_float32_and_saves_what_the_base_is_saved_in_with_tied_weights_once(tmp_path: Path, dtype):
    base = tmp_path / "base"
    config = LlamaConfig(
        vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=1,
        tie_word_embeddings=True,
    )  # fmt: skip
    LlamaForCausalLM(config).to(dtype).save_pretrained(base)
    model = load_model(base)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    # What gathering gives: a copy of each weight, tied ones included.
    state = {name: value.clone() for name, value in model.state_dict().items()}
    write_model(model, state, base_dir=base, to=tmp_path / "model")
    assert {value.dtype for value in load_file(tmp_path / "model" / "model.safetensors").values()} == {dtype}
    assert names(tmp_path / "model") == names(base)
    assert json.loads((tmp_path / "model" / "config.json").read_text())["dtype"] == str(dtype).removeprefix("torch.")


def names(folder) -> set[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return set(file.keys())


@pytest.mark.parametrize("family", ["llava", "llava_next", "llava_onevision", "qwen2_5_vl", "qwen2_audio"])
def test_a_model_is_saved_under_the_names_that_it_was_loaded_by(family, tmp_path):
    folder = FAMILIES[family].build(tmp_path / "published")
    load_model(folder).save_pretrained(tmp_path / "trained")
    assert names(tmp_path / "trained") == names(folder)
