"""The engine contract on real vLLM: seeds, stops, bounds, spans; errors that harm one request alone."""

import math
from dataclasses import replace

import pytest
from prometheus_client import generate_latest

from omnialign.errors import FailedPrecondition, ResourceExhausted
from omnialign.modeling.inputs import MediaBytes
from omnialign.v1 import generation_pb2
from services.inference.config import EngineConfig
from services.inference.transformers.engine import open_transformers_engine
from tests.services.inference.model_factory import requests, until
from tests.vllm.conftest import CACHE_BYTES, TINY_WORLD

pytestmark = pytest.mark.asyncio(loop_scope="module")
PROMPTS = ["a", "what is red", "x" * 60, "a circle on the left of a square", "y" * 150, "zz"] * 3


async def results(engine, asked, **options):
    return {result.id: result async for result in engine.generate(asked, **options)}


async def texts(engine, asked):
    return {name: result.pieces for name, result in (await results(engine, asked)).items()}


async def test_seeded_prompts_that_are_read_in_parts_are_answered_as_those_read_whole(random_model):
    """vLLM 0.32 sets back the generator of such a prompt by an offset, which generators of a CPU do not have."""
    from services.inference.vllm.engine import open_vllm_engine

    asked = requests(random_model, [f"{'word ' * 15}{i}" for i in range(12)], temperature=1.0, max_new_tokens=6)
    found = []
    for prefill_tokens, rows in ((4096, 128), (24, 8)):
        config = EngineConfig(cache_budget_bytes=CACHE_BYTES, prefill_tokens=prefill_tokens, max_batch_rows=rows)
        async with open_vllm_engine(config) as engine:
            found.append(await texts(engine, asked))
    assert found[0] == found[1]


async def test_greedy_ignores_the_seed_and_sampling_follows_it(engine, random_model):
    greedy = await texts(engine, requests(random_model, ["a"] * 2, seeds=[1, 2], max_new_tokens=20))
    assert greedy["0"] == greedy["1"]
    seeds = [1, 2, 1, 2**64 - 1]
    drawn = await texts(engine, requests(random_model, ["a"] * 4, seeds=seeds, temperature=1.0, max_new_tokens=20))
    assert drawn["0"] == drawn["2"]
    assert len(set(drawn.values())) == 3


async def test_a_request_has_the_same_tokens_when_it_is_asked_again(engine, random_model):
    asked = requests(random_model, PROMPTS, temperature=1.0, max_new_tokens=40)
    assert await texts(engine, asked) == await texts(engine, asked)


async def test_an_answer_ends_at_its_stop_or_its_bound(engine, random_model):
    whole = (await results(engine, requests(random_model, ["go"], max_new_tokens=12)))["0"]
    assert (whole.info.completion_tokens, whole.info.finish_reason) == (12, generation_pb2.FINISH_REASON_LENGTH)
    assert whole.info.prompt_tokens == len("go") + 3
    assert whole.info.latency.ToNanoseconds() > 0
    text = "".join(whole.pieces)
    stop = text[text.index("word", 20) :][:8]
    cut = (await results(engine, requests(random_model, ["go"], stop=[stop, "never"], max_new_tokens=12)))["0"]
    assert "".join(cut.pieces) == text[: text.index(stop)].rstrip()
    assert cut.info.finish_reason == generation_pb2.FINISH_REASON_STOP
    assert cut.info.completion_tokens < 12


async def test_a_prompt_longer_than_the_context_harms_only_itself(engine, random_model):
    found = await results(engine, requests(random_model, ["short", "x" * 600, "short too"], max_new_tokens=4))
    error = found["1"].error
    assert (error.reason, error.metadata) == ("PROMPT_TOO_LONG", {"prompt_tokens": "603", "context_tokens": "512"})
    assert found["0"].error is None
    assert found["2"].error is None


async def test_without_a_bound_an_answer_may_fill_the_context(engine, random_model):
    asked = requests(random_model, ["x" * 480] * 8, temperature=1.0)
    for info in [result.info for result in (await results(engine, asked)).values()]:
        assert info.sampling.max_new_tokens == 512 - 483
        if info.finish_reason == generation_pb2.FINISH_REASON_LENGTH:
            assert info.prompt_tokens + info.completion_tokens == 512


async def test_media_spans_are_well_formed_though_the_weights_are_random(engine, random_model):
    """Left alone, this model would hardly ever follow the mark of a picture with four codes and the mark of its end."""
    found = await results(engine, requests(random_model, ["a"] * 60, temperature=1.5))
    whole = [r for r in found.values() if r.info.finish_reason == generation_pb2.FINISH_REASON_END]
    assert [result.error for result in whole if result.error] == []
    read = [piece for result in found.values() for piece in result.pieces]
    assert sum(isinstance(piece, MediaBytes) for piece in read) > 5


async def test_greedy_answers_are_those_of_the_transformers_engine(engine):
    prompts = [f"Draw a {c} {s}" for c in ("red", "green", "blue") for s in ("circle", "square")]
    asked = requests(TINY_WORLD, [*prompts, "what is red", "hello"], max_new_tokens=60)
    async with open_transformers_engine(EngineConfig(threads=1)) as other:
        assert await texts(engine, asked) == await texts(other, asked)


async def test_dropping_the_results_ends_the_requests(engine, random_model):
    await engine.load(random_model)
    (key,) = [key for key in engine.residency.keys if key.model == random_model]
    results = engine.generate(requests(random_model, ["a"] * 40, temperature=1.0))
    await anext(results)
    await results.aclose()
    async with engine.residency.use(key) as model:
        await until(lambda: model.llm.get_num_unfinished_requests() == 0)
    assert len(await texts(engine, requests(random_model, ["a"], max_new_tokens=2))) == 1


async def test_a_full_queue_refuses_all_of_a_call(random_model):
    from services.inference.vllm.engine import open_vllm_engine

    async with open_vllm_engine(EngineConfig(max_waiting=4)) as small:
        with pytest.raises(ResourceExhausted) as caught:
            await results(small, requests(random_model, ["a"] * 5))
        assert caught.value.reason == "QUEUE_FULL"


async def test_a_deterministic_request_is_refused(engine, random_model):
    with pytest.raises(FailedPrecondition) as caught:
        await results(engine, requests(random_model, ["a"]), deterministic=True)
    assert caught.value.reason == "DETERMINISM_UNSUPPORTED"


async def test_a_token_model_cannot_be_held_to_a_schema(engine, random_model):
    (asked,) = requests(random_model, ["a"], max_new_tokens=4)
    (result,) = (await results(engine, [replace(asked, json_schema='{"type": "object"}')])).values()
    assert result.error.reason == "JSON_SCHEMA_UNSUPPORTED"


async def test_log_probabilities_are_those_of_the_transformers_model(engine):
    """Float32 on both sides; sums are added up in another order."""
    import torch
    from transformers import AutoModelForCausalLM

    from services.inference.models.key import load_model_adapter
    from services.inference.models.resolver import path_of

    folder = path_of(TINY_WORLD, model=TINY_WORLD)
    (request,) = requests(TINY_WORLD, ["Draw a red circle"])
    adapter = load_model_adapter(folder, TINY_WORLD)
    drawn = (await results(engine, [request]))["0"].pieces
    prompt, answer = adapter.encode(request.turns).ids, adapter.encode_answer(drawn)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    with torch.no_grad():
        logits = model(torch.tensor([[*prompt, *answer]])).logits[0].log_softmax(-1)
    wanted = [float(logits[len(prompt) - 1 + index, token]) for index, token in enumerate(answer)]
    found = await engine.log_probabilities(request, drawn)
    assert len(found) > 10
    assert all(math.isclose(a, b, abs_tol=1e-3) for a, b in zip(found, wanted, strict=True))


async def test_choices_are_weighed_by_what_they_end_with(engine):
    (request,) = requests(TINY_WORLD, ["Draw a red circle"])
    choices = (("a red circle",), ("a red square",))
    (found,) = (await results(engine, [replace(request, choices=choices)])).values()
    whole = [sum(await engine.log_probabilities(request, choice)) for choice in choices]
    first, second = found.choice_log_probs
    assert math.isclose(second - first, whole[1] - whole[0], abs_tol=1e-3)


async def test_written_tokens_have_the_log_probabilities_of_a_forward_pass(engine, random_model, folder_of):
    import torch
    from transformers import AutoModelForCausalLM

    from services.inference.models.key import load_model_adapter

    asked = requests(random_model, ["what is red", "go on"], max_new_tokens=12, temperature=1.0, top_p=0.9)
    found = await results(engine, [replace(request, return_tokens=True) for request in asked])
    adapter = load_model_adapter(folder_of(random_model), random_model)
    model = AutoModelForCausalLM.from_pretrained(folder_of(random_model), dtype=torch.float32)
    for request in asked:
        prompt, tokens = adapter.encode(request.turns).ids, found[request.id].tokens
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *tokens.ids]])).logits[0].log_softmax(-1)
        wanted = [float(logits[len(prompt) - 1 + index, token]) for index, token in enumerate(tokens.ids)]
        assert len(wanted) > 1
        assert list(tokens.log_probs) == pytest.approx(wanted, abs=1e-3)


async def test_at_another_temperature_vllm_has_no_log_probabilities_to_give(engine, random_model):
    (asked,) = requests(random_model, ["a"], max_new_tokens=4, temperature=0.7)
    (result,) = (await results(engine, [replace(asked, return_tokens=True)])).values()
    assert result.error.reason == "TOKENS_UNSUPPORTED"


async def test_metrics_of_vllm_stand_beside_ours(random_model):
    from prometheus_client import CollectorRegistry

    from services.inference.vllm.engine import open_vllm_engine

    registry = CollectorRegistry()
    config = EngineConfig(cache_budget_bytes=64 << 20)
    async with open_vllm_engine(config, metrics=registry) as engine:
        for model in (random_model, TINY_WORLD):
            await texts(engine, requests(model, ["a"], max_new_tokens=2))
        page = generate_latest(registry).decode()
        for model in (random_model, TINY_WORLD):
            assert f'vllm:generation_tokens_total{{engine="0",model_name="{model}"}}' in page
        assert page.count("# TYPE vllm:generation_tokens_total counter") == 1
        assert 'omnialign_engine_requests_total{outcome="length"}' in page
        assert "omnialign_engine_models_resident 2.0" in page
    assert "vllm:" not in generate_latest(registry).decode()
