"""A packed batch gives the log-probabilities and gradients of the padded one."""

import copy
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import LlamaConfig, LlamaForCausalLM

from tests.model_factory.family import Family
from tests.training.multimodal import TRAINED, batch, medium, question
from training import fused_lm_head, packing
from training.packing import IGNORED, Packing
from training.samples import Sample
from training.tuning import load_model

Batch = dict[str, torch.Tensor]


def with_head(model: torch.nn.Module, *, packed: bool) -> torch.nn.Module:
    """A copy of a model that scores labels, on packed rows or on padded ones."""
    made = copy.deepcopy(model)
    with pytest.MonkeyPatch.context() as patch:
        if not packed:
            patch.setattr(packing, "enable", lambda model: False)
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


def test_a_shared_prompt_runs_once_but_for_its_last_token():
    prompt = [5, 6, 7, 8]
    inputs = made_batch([prompt, [9, 9], prompt, [9, 8]], [[1], [2], [3, 4], [2]])
    found = Packing.of(inputs["input_ids"], inputs["attention_mask"], inputs["labels"], share=True)
    assert [(s.size, s.prefix) for s in found.segments] == [(3, None), (2, 0), (3, 0), (3, None), (3, None)]
    alone = Packing.of(inputs["input_ids"], inputs["attention_mask"], inputs["labels"], share=False)
    assert [s.size for s in alone.segments] == [5, 3, 6, 3]


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
    "change", [{"sliding_window": 8, "use_sliding_window": True}, {"layer_types": ["linear_attention"]}]
)
def test_models_with_other_kinds_of_attention_stay_padded(llama, change: dict[str, object]):
    made = copy.deepcopy(llama)
    for name, value in change.items():
        setattr(made.config, name, value)
    assert not packing.enable(made)


@pytest.fixture(params=list(TRAINED), scope="module")
def family(request: pytest.FixtureRequest) -> Iterator[Family]:
    yield TRAINED[request.param]


def test_every_family_is_scored_as_if_it_were_padded(family: Family, tmp_path: Path):
    from omnialign.modeling.adapters import load_adapter

    folder = family.build(tmp_path / "model")
    model = load_model(folder, train_towers=True).float()
    media = [medium(name, seed=seed) for seed, name in enumerate(family.reads)]
    samples = [
        Sample(question("What is it?", *media), (("this",), ("nothing at all",))),
        Sample(question("No media, and a longer question than the others have."), (("Yes.",), ("No!",))),
        Sample(question(*media[:1], "and this?"), (("A thing",), ("b",))),
    ]
    inputs = batch(load_adapter(folder), samples, folder=tmp_path / "batch")
    mask = inputs.pop("completion_mask")
    assert_equal(model, {**inputs, "labels": inputs["input_ids"].masked_fill(mask == 0, IGNORED)})
