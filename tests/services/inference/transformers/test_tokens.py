"""The tokens of an answer: their ids, and the log-probabilities that a plain forward pass of the model gives them."""

from dataclasses import replace

import pytest
import torch
from transformers import AutoModelForCausalLM

from omnialign.modeling.adapters import load_adapter
from omnialign.v1 import generation_pb2
from tests.services.inference import model_factory

PROMPTS = ["what is red", "a", "go on with this"]
CASES = [
    pytest.param({"temperature": 1.0}, id="as the model is"),
    pytest.param({"temperature": 0.7, "top_p": 0.8}, id="top-p leaves the model's own distribution"),
    pytest.param({"temperature": 0.0}, id="greedy has the temperature 1"),
]


async def answers(engine, model, **sampling):
    asked = model_factory.requests(model, PROMPTS, max_new_tokens=12, **sampling)
    asked = [replace(request, return_tokens=True) for request in asked]
    return asked, {result.id: result async for result in engine.generate(asked)}


def forward(model, adapter, request, ids):
    """log softmax(logits / temperature) of each id after the prompt, by one pass over all of them."""
    prompt = adapter.encode(request.turns, request.policy).ids
    with torch.no_grad():
        logits = model(torch.tensor([prompt + ids])).logits[0]  # (columns, vocabulary)
    temperature = request.sampling.temperature or 1.0
    log_probs = (logits / temperature).log_softmax(-1)
    return [float(log_probs[len(prompt) - 1 + place, token]) for place, token in enumerate(ids)]


@pytest.mark.parametrize("sampling", CASES)
async def test_log_probabilities_are_those_of_a_plain_forward_pass(engine, model, folder_of, sampling):
    asked, found = await answers(engine, model, **sampling)
    plain, adapter = AutoModelForCausalLM.from_pretrained(folder_of(model)), load_adapter(folder_of(model))
    for request in asked:
        tokens = found[request.id].tokens
        assert len(tokens.ids) == found[request.id].info.completion_tokens > 1
        assert list(tokens.log_probs) == pytest.approx(forward(plain, adapter, request, list(tokens.ids)), abs=1e-4)


async def test_inside_a_picture_they_are_those_before_the_constraint(engine, tmp_path, folder_of):
    # After `<image>` the model would rather stop; it may not, and the trainer's forward pass knows of no such rule.
    chain = {"<assistant>": {"<image>": 1.0}, "<image>": {"</s>": 0.9, "code1": 0.1}, "code1": {"code1": 1.0}}
    model = model_factory.chain_model(tmp_path / "model", chain)
    (request,) = model_factory.requests(model, ["draw"], max_new_tokens=3, temperature=1.0)
    (result,) = [r async for r in engine.generate([replace(request, return_tokens=True)])]
    plain, adapter = AutoModelForCausalLM.from_pretrained(folder_of(model)), load_adapter(folder_of(model))
    ids = list(result.tokens.ids)
    assert result.error.reason == "ANSWER_MALFORMED"  # cut off within the picture: the tokens are there all the same
    assert list(result.tokens.log_probs) == pytest.approx(forward(plain, adapter, request, ids), abs=1e-4)
    assert result.tokens.log_probs[1] == pytest.approx(-2.303, abs=1e-2)


async def test_an_end_token_is_among_the_tokens_and_a_request_that_asks_for_none_gets_none(engine, tmp_path):
    model = model_factory.chain_model(tmp_path / "model", {"<assistant>": {"a": 1.0}, "a": {"</s>": 1.0}})
    with_tokens, without = model_factory.requests(model, ["x", "x"], max_new_tokens=8)
    with_tokens = replace(with_tokens, return_tokens=True)
    found = {result.id: result async for result in engine.generate([with_tokens, without])}
    assert found["0"].info.finish_reason == generation_pb2.FINISH_REASON_END
    assert len(found["0"].tokens.ids) == len(found["0"].tokens.log_probs) == 2
    assert found["1"].tokens is None
