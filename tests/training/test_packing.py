"""A packed batch gives the log-probabilities and gradients of the padded one."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PaliGemmaConfig,
    PaliGemmaForConditionalGeneration,
)

from omnialign.modeling.adapters import load_adapter
from tests.model_factory.family import Family
from tests.training.multimodal import MODALITIES, TRAINED, batch, medium, question
from training import fused_lm_head, packing
from training.packing import IGNORED, Obstacle, Packing
from training.samples import Sample
from training.tuning import load_model

Batch = dict[str, Any]


def with_head(model: torch.nn.Module, *, packed: bool) -> torch.nn.Module:
    """A copy of a model that scores labels, on packed rows or on padded ones."""
    made = copy.deepcopy(model)
    with pytest.MonkeyPatch.context() as patch:
        if not packed:
            patch.setattr(packing, "enable", lambda model: Obstacle.NOT_SDPA)
        fused_lm_head.add_head(made)
    return made


def assert_equal(model: torch.nn.Module, inputs: Batch, *, tolerance: float = 1e-4) -> None:
    """What each label gets, and the gradient of a weighted sum of it, is the same packed and padded."""
    found = []
    for made in (with_head(model, packed=True), with_head(model, packed=False)):
        scored = made(**inputs, use_cache=False, fused_lm_head=True)
        weights = torch.sin(torch.arange(scored.log_probs.numel())).view_as(scored.log_probs)
        (scored.log_probs * weights).sum().backward()
        gradients = {name: p.grad for name, p in made.named_parameters() if p.grad is not None}
        found.append((scored, gradients))
    (packed, ours), (padded, theirs) = found
    assert torch.allclose(packed.log_probs, padded.log_probs, atol=tolerance)
    assert torch.equal(packed.label_mask, padded.label_mask)
    assert float(packed.loss.detach()) == pytest.approx(float(padded.loss.detach()), abs=tolerance)
    assert ours.keys() == theirs.keys()
    for name, gradient in ours.items():
        assert torch.allclose(gradient, theirs[name], atol=tolerance), name


@pytest.fixture(scope="module")
def llama() -> LlamaForCausalLM:
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    return LlamaForCausalLM(LlamaConfig(vocab_size=50, max_position_embeddings=128, **shape, **heads))


def made_batch(prompts: list[list[int]], answers: list[list[int]]) -> Batch:
    """A padded batch of rows; the loss falls on the answers."""
    rows = [
        (prompt + answer, [IGNORED] * len(prompt) + answer) for prompt, answer in zip(prompts, answers, strict=True)
    ]
    longest = max(len(ids) for ids, _ in rows)
    return {
        "input_ids": torch.tensor([ids + [0] * (longest - len(ids)) for ids, _ in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows]),
        "labels": torch.tensor([labels + [IGNORED] * (longest - len(labels)) for _, labels in rows]),
    }


IDS, MAYBE = (st.lists(st.integers(1, 49), min_size=least, max_size=9) for least in (1, 0))


@given(st.lists(st.tuples(IDS, MAYBE, MAYBE), min_size=1, max_size=4), st.booleans())
def test_pairs_of_any_lengths_are_scored_as_if_they_were_padded(llama, pairs, is_shared: bool):
    firsts, seconds = [pair[0] for pair in pairs], [pair[0] if is_shared else pair[0][::-1] for pair in pairs]
    answers = [pair[1] for pair in pairs] + [pair[2] for pair in pairs]
    assert_equal(llama, made_batch(firsts + seconds, answers))


@given(st.lists(st.tuples(st.sampled_from([[1], [1, 2], [1, 2, 3]]), IDS), min_size=1, max_size=6))
def test_any_rows_may_share_a_prompt(llama, rows):
    assert_equal(llama, made_batch([prompt for prompt, _ in rows], [answer for _, answer in rows]))


def test_a_shared_prompt_runs_once_but_for_its_last_token():
    prompt = [5, 6, 7, 8]
    inputs = made_batch([prompt, [9, 9], prompt, [9, 8], prompt], [[1], [2], [3, 4], [2], [6]])
    tokens, mask, labels = inputs["input_ids"][None], inputs["attention_mask"], inputs["labels"]
    found = Packing.of(tokens, mask, labels, media=[0] * 5)
    sizes = [(3, None), (2, 0), (3, None), (3, 0), (3, None), (2, 0)]
    assert [(s.size, s.prefix) for s in found.segments] == sizes
    assert found.guests == {2, 4}
    of_unlike_media = Packing.of(tokens, mask, labels, media=[0, 1, 2, 3, 2])
    assert [s.size for s in of_unlike_media.segments] == [5, 3, 3, 3, 3, 2]
    alone = Packing.of(tokens, mask, labels, media=None)
    assert [s.size for s in alone.segments] == [5, 3, 6, 3, 5]
    elsewhere = torch.stack([tokens[0], torch.arange(5)[:, None].expand(tokens[0].shape)])
    assert not Packing.of(elsewhere, mask, labels, media=[0] * 5).guests


def test_rows_without_a_label_and_an_odd_row_are_scored(llama):
    assert_equal(llama, made_batch([[1, 2, 3], [4], [5, 6]], [[], [7], [8, 9]]))


def test_layers_that_are_computed_again_in_the_backward_pass_see_the_same_packing(llama):
    inputs = made_batch([[1, 2, 3], [1, 2, 3]], [[4, 5], [6]])
    plain, again = with_head(llama, packed=True), with_head(llama, packed=True)
    again.gradient_checkpointing_enable()
    again.train()
    for made in (plain, again):
        made(**inputs, use_cache=False, fused_lm_head=True).log_probs.sum().backward()
    for ours, theirs in zip(again.parameters(), plain.parameters(), strict=True):
        assert torch.allclose(ours.grad, theirs.grad, atol=1e-6)


def test_a_model_that_packs_still_generates_and_reads_padded_rows(llama):
    made = with_head(llama, packed=True)
    inputs = made_batch([[1, 2, 3], [4]], [[5], [6]])
    made(**inputs, use_cache=False, fused_lm_head=True)
    ids, mask = inputs["input_ids"], inputs["attention_mask"]
    assert torch.allclose(
        made(input_ids=ids, attention_mask=mask).logits, llama(input_ids=ids, attention_mask=mask).logits
    )
    # One row of as many tokens as the packed one, read by what the head is not asked for.
    row = torch.arange(1, 7)[None]
    assert torch.allclose(made.model(row).last_hidden_state, llama.model(row).last_hidden_state)
    wanted = llama.generate(ids[:1], max_new_tokens=4, do_sample=False)
    assert torch.equal(made.generate(ids[:1], max_new_tokens=4, do_sample=False), wanted)


@pytest.mark.parametrize(
    ("change", "obstacle"),
    [
        ({"layer_types": ["linear_attention"]}, Obstacle.OTHER_LAYERS),
        ({"cross_attention_layers": [1]}, Obstacle.CROSS_ATTENTION),
        ({"_attn_implementation": "eager"}, Obstacle.NOT_SDPA),
    ],
)
def test_models_with_other_kinds_of_attention_stay_padded_and_say_why(
    llama, change: dict[str, Any], obstacle: Obstacle, caplog: pytest.LogCaptureFixture
):
    made = copy.deepcopy(llama)
    for name, value in change.items():
        setattr(made.config, name, value)
    with caplog.at_level("INFO"):
        fused_lm_head.add_head(made)
    assert caplog.messages == [f"the rows of LlamaForCausalLM stay padded: {obstacle.name}, {obstacle.value}"]
    assert not hasattr(made(**made_batch([[1, 2]], [[3]]), fused_lm_head=True), "packing")


def test_rows_longer_than_a_sliding_window_stay_padded():
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "vocab_size": 50}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    model = MistralForCausalLM(MistralConfig(**shape, **heads, sliding_window=6))
    for answer, is_packed in ([4, 5, 6], True), ([4, 5, 6, 7], False):
        inputs = made_batch([[1, 2, 3], [1, 2, 3]], [answer, [7]])
        assert hasattr(with_head(model, packed=True)(**inputs, fused_lm_head=True), "packing") == is_packed
        assert_equal(model, inputs)


def test_a_model_whose_tokens_see_later_ones_stays_padded_and_says_why(caplog: pytest.LogCaptureFixture):
    tower = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2}
    text = {**tower, "vocab_size": 50, "num_key_value_heads": 1, "head_dim": 16, "model_type": "gemma"}
    vision = {
        **tower,
        "image_size": 28,
        "patch_size": 14,
        "vision_use_head": False,
        "model_type": "siglip_vision_model",
    }
    config = PaliGemmaConfig(vision_config=vision, text_config=text, image_token_index=49, projection_dim=32)
    made = PaliGemmaForConditionalGeneration(config).float()
    inputs = made_batch([[1, 2, 3], [1, 2, 3]], [[4, 5], [6]])
    # Of the family's tokens, those of type 0 see each other.
    inputs["token_type_ids"] = (inputs["labels"] != IGNORED).long()
    with caplog.at_level("INFO"):
        assert_equal(made, inputs)
    assert Obstacle.OWN_MASK.value in caplog.text


@pytest.fixture(params=list(TRAINED), scope="module")
def family(request: pytest.FixtureRequest) -> Family:
    found: Family = TRAINED[request.param]
    return found


@pytest.fixture(scope="module")
def base(family: Family, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return family.build(tmp_path_factory.mktemp("model") / family.name)


def scored_batch(base: Path, samples: Sequence[Sample], *, folder: Path, fill: Sequence[int] = ()) -> Batch:
    """The batch of samples as a trainer scores it."""
    inputs = batch(load_adapter(base), samples, folder=folder, fill=fill)
    mask = inputs.pop("completion_mask")
    return {**inputs, "labels": inputs["input_ids"].masked_fill(mask == 0, IGNORED)}


def test_every_family_is_scored_as_if_it_were_padded(family: Family, base: Path, tmp_path: Path):
    model = load_model(base, train_towers=True).float()
    media = [medium(name, seed=seed) for seed, name in enumerate(family.reads)]
    samples = [
        Sample(question("What is it?", *media), (("this",), ("nothing at all",))),
        Sample(question("No media, and a longer question than the others have."), (("Yes.",), ("No!",))),
        Sample(question(*media[:1], *(medium(name, seed=5) for name in family.reads[:1]), "?"), (("A",), ("b",))),
    ]
    inputs = scored_batch(base, samples, folder=tmp_path)
    assert_equal(model, inputs)
    # The prompts run once, and the towers see each medium once.
    scored = with_head(model, packed=True)(**inputs, fused_lm_head=True)
    assert hasattr(scored, "packing") == (family.name != "janus")
    labels, rows = inputs.pop("labels"), inputs.pop("media_rows", None)
    plan, packed = packing.pack(model, inputs, labels, rows)
    assert plan.guests == {3, 4, 5}
    assert {"pixel_values", "input_features"} & inputs.keys() == {"pixel_values", "input_features"} & packed.keys()
    for name in rows.owners if rows else ():
        assert torch.equal(packed[name], inputs[name][: len(inputs[name]) // 2]), name


@pytest.mark.parametrize("name", ["llava", "qwen2_5_vl", "qwen2_audio"])
def test_rows_of_one_question_about_unlike_media_do_not_share_it(name: str, tmp_path: Path):
    base = TRAINED[name].build(tmp_path / "model")
    kind = TRAINED[name].reads[0]
    shown = [medium(kind, seed=seed) for seed in (0, 3, 0)]  # equally large
    samples = [Sample(question("What is it?", piece), ((f"It is {at}.",),)) for at, piece in enumerate(shown)]
    inputs = scored_batch(base, samples, folder=tmp_path)
    assert inputs["media_rows"].same == (0, 1, 0)
    model = load_model(base, train_towers=True)
    assert with_head(model, packed=True)(**inputs, fused_lm_head=True).packing.guests == {2}
    assert_equal(model, inputs)


def test_fillers_are_no_part_of_a_shared_prompt(tmp_path: Path):
    base = TRAINED["qwen2_5_omni"].build(tmp_path / "model")
    pair = Sample(question("What is it?", medium("image")), (("It is this.",), ("No.",)))
    inputs = scored_batch(base, [pair], folder=tmp_path, fill=list(MODALITIES.values()))
    assert {"pixel_values", "pixel_values_videos", "input_features"} <= inputs.keys()
    model = load_model(base, train_towers=True)
    assert with_head(model, packed=True)(**inputs, fused_lm_head=True).packing.guests == {1}
    assert_equal(model, inputs)


def test_a_prompt_that_ends_with_a_medium_is_not_shared(tmp_path: Path):
    base = TRAINED["llava"].build(tmp_path / "model")
    pair = Sample(question("What is it?", medium("image")), (("This.",), ("That.",)))
    inputs = scored_batch(base, [pair], folder=tmp_path)
    model = load_model(base, train_towers=True)
    last = (inputs["input_ids"] == model.config.image_token_id).nonzero()[:, 1].max()
    inputs["labels"][:, last + 1 :] = inputs["input_ids"][:, last + 1 :]
    inputs["labels"].masked_fill_(inputs["attention_mask"] == 0, IGNORED)
    assert not with_head(model, packed=True)(**inputs, fused_lm_head=True).packing.guests
    assert_equal(model, inputs)
