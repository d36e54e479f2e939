"""LoRA: what gets one, what it adds, going on from one, merging, and files that PEFT and the engines read."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedModel

from omnialign.errors import FailedPrecondition, InvalidArgument
from tests.model_factory.families import FAMILIES
from tests.training.test_resume import tiny_model  # noqa: F401
from tests.training.test_spec import GOOD, problems
from training import lora, tuning
from training.spec import DEFAULT_RANK, Distribution, Lora
from training.spec_file import parse_spec
from training.tuning import load_model

IDS = torch.tensor([[5, 40, 41, 42, 30, 7], [9, 20, 21, 22, 23, 2]])
MODULES = {"q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"}


def with_noise(model: PreTrainedModel, wanted: Lora = Lora(rank=4), *, seed: int = 0) -> PreTrainedModel:  # noqa: B008
    """A model with a LoRA that changes something."""
    lora.add_lora(model, wanted, seed=seed)
    torch.manual_seed(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.normal_(std=0.3)
    return model


def learnt(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def saved(model: PreTrainedModel, folder: Path, *, base: Path) -> Path:
    lora.write_lora(model, learnt(model), base=base.as_uri(), to=folder)
    return folder


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return torch.as_tensor(model.eval()(IDS).logits)


@pytest.mark.parametrize("name", ["qwen2_5_omni", "llava", "chameleon"])
def test_every_linear_layer_of_the_language_model_gets_one_and_no_other_part_learns(tmp_path: Path, name: str):
    model = load_model(FAMILIES[name].build(tmp_path / "model"))
    layers = lora.linear_layers(model)
    lora.add_lora(model, Lora(), seed=0)
    assert {layer.rpartition(".")[2] for layer in layers} == MODULES
    assert [name for name, _ in lora.lora_layers(model)] == layers == lora.linear_layers(model)
    assert len(layers) == 7 * model.config.get_text_config().num_hidden_layers
    assert {name.rpartition(".lora_")[0] for name in learnt(model)} == set(layers)
    assert {layer.r["default"] for _, layer in lora.lora_layers(model)} == {DEFAULT_RANK}
    assert {layer.scaling["default"] for _, layer in lora.lora_layers(model)} == {2.0}


def test_chosen_layers_alone_get_one_and_a_name_that_is_none_is_refused_with_the_nearest(tiny_model: Path):  # noqa: F811
    model = load_model(tiny_model)
    assert lora.targets(model, ["q_proj", "layers.1.mlp.up_proj"]) == [
        "model.layers.0.self_attn.q_proj",
        "model.layers.1.self_attn.q_proj",
        "model.layers.1.mlp.up_proj",
    ]
    for wrong, said in (("q_porj", "did you mean `q_proj`?"), ("lm_head", "it has down_proj, gate_proj")):
        with pytest.raises(InvalidArgument, match=r"lora\.target_modules") as caught:
            lora.add_lora(model, Lora(target_modules=(wrong,)), seed=0)
        assert caught.value.reason == "LORA_TARGET_UNKNOWN"
        assert said in caught.value.message


def test_a_new_lora_changes_nothing_and_is_the_same_on_every_rank(tiny_model: Path):  # noqa: F811
    first, second, plain = (load_model(tiny_model) for _ in range(3))
    for number, model in enumerate((first, second)):
        torch.manual_seed(number)  # ranks differ in the state of their generators
        lora.add_lora(model, Lora(rank=4), seed=3)
    assert torch.equal(logits(first), logits(plain))
    assert all(torch.equal(weight, learnt(second)[name]) for name, weight in learnt(first).items())
    assert {weight.dtype for weight in learnt(first).values()} == {torch.float32}


def test_adapters_of_a_base_in_bfloat16_learn_in_float32(tiny_model: Path):  # noqa: F811
    model = load_model(tiny_model, dtype=torch.bfloat16)
    lora.add_lora(model, Lora(), seed=0)
    assert {weight.dtype for weight in learnt(model).values()} == {torch.float32}
    assert model.get_input_embeddings().weight.dtype == torch.bfloat16


def test_merged_weights_answer_as_the_lora_does(tiny_model: Path):  # noqa: F811
    model, merged = with_noise(load_model(tiny_model)), load_model(tiny_model)
    before = logits(merged)
    merged.load_state_dict(lora.merged(model, model.state_dict()))
    assert not torch.allclose(logits(model), before, atol=1e-2)
    torch.testing.assert_close(logits(merged), logits(model), atol=1e-4, rtol=0)


def test_layers_that_keep_their_weights_transposed_are_merged_too():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=64, n_positions=32, n_embd=24, n_layer=2, n_head=2)
    plain = GPT2LMHeadModel(config)
    model = GPT2LMHeadModel(config)
    model.load_state_dict(plain.state_dict())
    with_noise(model)
    plain.load_state_dict(lora.merged(model, model.state_dict()))
    torch.testing.assert_close(logits(plain), logits(model), atol=1e-4, rtol=0)


def test_peft_reads_what_is_written(tiny_model: Path, tmp_path: Path):  # noqa: F811
    model = with_noise(load_model(tiny_model))
    folder = saved(model, tmp_path / "lora", base=tiny_model)
    assert sorted(path.name for path in folder.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    assert json.loads((folder / "adapter_config.json").read_text())["base_model_name_or_path"] == tiny_model.as_uri()
    read = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), folder)
    torch.testing.assert_close(logits(read), logits(model))


def test_training_goes_on_from_the_weights_of_a_lora_and_learns_them_alone(tiny_model: Path, tmp_path: Path):  # noqa: F811
    model = with_noise(load_model(tiny_model), Lora(rank=4, alpha=12, target_modules=("q_proj", "up_proj")))
    folder = saved(model, tmp_path / "lora", base=tiny_model)
    going_on = load_model(tiny_model)
    lora.continue_lora(going_on, folder, Lora(dropout=0.1))
    assert learnt(going_on).keys() == learnt(model).keys()
    torch.testing.assert_close(logits(going_on), logits(model))
    again = saved(going_on, tmp_path / "again", base=tiny_model)
    found, kept = load_file(again / "adapter_model.safetensors"), load_file(folder / "adapter_model.safetensors")
    assert found.keys() == kept.keys() and all(torch.equal(found[name], kept[name]) for name in kept)


def test_other_settings_than_those_of_the_lora_that_training_goes_on_from_are_refused(
    tiny_model: Path,  # noqa: F811
    tmp_path: Path,
):
    folder = saved(with_noise(load_model(tiny_model)), tmp_path / "lora", base=tiny_model)
    lora.check_continued(folder, Lora(rank=4, alpha=8))
    for wanted, words in (
        (Lora(rank=16), "lora.rank is 16, and the LoRA that training goes on from has 4"),
        (Lora(alpha=16), "lora.alpha is 16, and the LoRA that training goes on from has 8"),
        (Lora(target_modules=("q_proj",)), "lora.target_modules must be left out"),
    ):
        with pytest.raises(InvalidArgument, match=words) as caught:
            lora.check_continued(folder, wanted)
        assert caught.value.reason == "LORA_DIFFERS"
    with pytest.raises(InvalidArgument) as caught:
        lora.check_continued(tiny_model, Lora())
    assert caught.value.reason == "LORA_CONFIG_INVALID"


def test_a_lora_that_does_not_fit_the_model_is_refused(tiny_model: Path, tmp_path: Path):  # noqa: F811
    folder = saved(with_noise(load_model(tiny_model)), tmp_path / "lora", base=tiny_model)
    path = folder / "adapter_config.json"
    settings = json.loads(path.read_text())
    for changes in ({"target_modules": ["q_proj"]}, {"target_modules": ["embed_tokens"]}, {"target_modules": ["wing"]}):
        path.write_text(json.dumps(settings | changes))
        with pytest.raises(InvalidArgument) as caught:
            lora.continue_lora(load_model(tiny_model), folder, Lora())
        assert caught.value.reason == "LORA_UNSUPPORTED"


def test_dropout_is_as_asked_for_although_trl_turns_it_off(tiny_model: Path):  # noqa: F811
    from trl.trainer.utils import disable_dropout_in_model

    model = with_noise(load_model(tiny_model), Lora(rank=4, dropout=0.5))
    disable_dropout_in_model(model)
    lora.set_dropout(model, 0.5)
    torch.manual_seed(0)
    assert not torch.equal(model.train()(IDS).logits, model(IDS).logits)


def test_settings_that_contradict_each_other_are_named():
    stage = {"zero_stage": 3}
    assert set(problems({**GOOD, "distribution": {"offload": "optimizer"}})) == {"distribution.offload"}
    assert set(problems({**GOOD, "distribution": {"zero_stage": 2, "offload": "optimizer_and_weights"}})) == {
        "distribution.offload"
    }
    bad = {**GOOD, "distribution": stage, "lora": {"quantize": "nf4", "merge": True, "dropout": 1.0}}
    assert set(problems(bad)) == {"lora.quantize", "lora.merge", "lora.dropout"}
    assert set(problems({**GOOD, "initial_lora_dir": "x"})) == {"initial_lora_dir"}
    towers = {**GOOD, "lora": {}, "hyperparameters": {"train_towers": True}}
    assert set(problems(towers)) == {"hyperparameters.train_towers"}
    assert set(problems({**GOOD, "lora": {"rnk": 4}})) == {"lora.rnk"}
    assert set(problems({**GOOD, "lora": None})) == {"lora"}


def test_what_the_machine_lacks_is_a_typed_failure_before_anything_is_loaded():
    spec = parse_spec({**GOOD, "lora": {"quantize": "nf4"}}, method="sft")  # its folders do not exist
    with pytest.raises(FailedPrecondition, match="needs a GPU and the package bitsandbytes") as caught:
        tuning.check(spec)
    assert caught.value.reason == "QUANTIZATION_UNAVAILABLE"
    flash = replace(spec, lora=None, distribution=Distribution(attention="flash_attention_2", precision="bf16"))
    with pytest.raises(FailedPrecondition) as caught:
        tuning.check(flash)
    assert caught.value.reason == "ATTENTION_UNAVAILABLE"
