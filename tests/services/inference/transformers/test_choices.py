"""Choices that a model weighs: the log-probabilities of its own forward pass, alone and in any company."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM

from omnialign.errors import InvalidArgument
from omnialign.modeling.adapters import load_adapter
from services.inference.codec_pool import split_choices
from services.inference.config import EngineConfig
from services.inference.engine import EngineRequest
from services.inference.transformers.engine import open_transformers_engine
from tests.services.inference.model_factory import requests

CHOICES = (("a circle is red",), ("a circle is on the left",), ("a circle",))


def folder_of(model):
    return Path(model.removeprefix("file://"))


def weighing(model, prompts, *, choices=CHOICES, **sampling):
    return [
        EngineRequest(r.id, r.model, r.turns, r.sampling, r.seed, choices=choices)
        for r in requests(model, prompts, **sampling)
    ]


async def weights(engine, asked, **options):
    return {result.id: result async for result in engine.generate(asked, **options)}


@torch.inference_mode()
def whole_log_probs(folder, turns, choice):
    """log p of a whole answer by one forward pass of the library's model."""
    adapter, model = load_adapter(folder), AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    prompt, answer = adapter.encode(turns).ids, adapter.encode_answer(choice)
    log_probs = model(torch.tensor([prompt + answer])).logits[0, :-1].log_softmax(-1)
    return float(log_probs[len(prompt) - 1 :].gather(-1, torch.tensor(answer)[:, None]).sum())


async def test_differences_are_those_of_the_whole_answers(engine, model):
    (request,) = weighing(model, ["what is red"])
    found = (await weights(engine, [request]))["0"]
    folder = folder_of(model)
    whole = [whole_log_probs(folder, request.turns, choice) for choice in CHOICES]
    for index in (1, 2):
        difference = found.choice_log_probs[index] - found.choice_log_probs[0]
        assert difference == pytest.approx(whole[index] - whole[0], abs=1e-3)
    assert found.pieces == ()
    assert found.tokens is None
    assert found.info.prompt_tokens > 0


async def test_company_temperature_stops_and_seed_change_nothing(engine, model):
    prompts = ["a", "what is red", "x" * 60, "a circle on the left of a square"]
    together = await weights(engine, weighing(model, prompts, temperature=1.5, top_p=0.5, stop=["circle"]))
    for request in weighing(model, prompts):
        alone = (await weights(engine, [request]))[request.id]
        assert alone.choice_log_probs == pytest.approx(together[request.id].choice_log_probs, abs=1e-4)


async def test_a_deterministic_call_repeats_itself_bit_by_bit(engine, model):
    asked = weighing(model, ["a", "what is red", "x" * 60])
    first, second = [await weights(engine, asked, deterministic=True) for _ in range(2)]
    assert {i: r.choice_log_probs for i, r in first.items()} == {i: r.choice_log_probs for i, r in second.items()}


async def test_a_prompt_without_room_fails_alone(engine, model):
    found = await weights(engine, weighing(model, ["a", "x" * 4000]))
    assert found["0"].error is None
    assert isinstance(found["1"].error, InvalidArgument)
    assert found["1"].error.reason == "PROMPT_TOO_LONG"


async def test_choices_fill_the_context_to_the_last_token(model):
    """A prompt that leaves room for the choices and no more is weighed."""
    async with open_transformers_engine(EngineConfig(threads=1)) as engine:
        (request,) = weighing(model, ["y"])
        context = 512
        adapter = load_adapter(folder_of(model))
        used = len(adapter.encode(request.turns).ids) + max(len(adapter.encode_answer(c)) for c in CHOICES)
        fits = "y" + "y" * (context - used)
        sizes = [len(adapter.encode(weighing(model, [text])[0].turns).ids) for text in ("y", fits)]
        assert sizes[1] - sizes[0] == context - used
        found = await weights(engine, weighing(model, [fits, fits + "yy"]))
        assert found["0"].error is None
        assert found["1"].error.reason == "PROMPT_TOO_LONG"


class Letters:
    """An adapter whose ids are the letters, and 0 at the end."""

    def encode_answer(self, pieces, policy):
        return [*map(ord, "".join(pieces)), 0]


@settings(max_examples=200, deadline=None)
@given(st.lists(st.text("ab", max_size=6), min_size=1, max_size=4))
def test_choices_split_where_they_part_and_each_keeps_its_end(texts):
    shared, tails = split_choices(Letters(), [(text,) for text in texts], None)
    assert [[*shared, *tail] for tail in tails] == [[*map(ord, text), 0] for text in texts]
    assert all(tail and tail[-1] == 0 for tail in tails)
    if len(set(texts)) > 1 and all(len(tail) > 1 for tail in tails):
        assert len({tail[0] for tail in tails}) > 1
