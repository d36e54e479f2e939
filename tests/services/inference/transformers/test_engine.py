"""The engine on real models: the same tokens in any company, stops and bounds, errors that harm one request alone."""

import asyncio

import numpy as np
import pytest
from prometheus_client import CollectorRegistry

from omnialign.errors import InvalidArgument, ResourceExhausted, Unavailable
from omnialign.v1 import generation_pb2
from services.inference.config import EngineConfig
from services.inference.transformers.engine import open_transformers_engine
from tests.services.inference.model_factory import chain_model, requests, until

PROMPTS = ["a", "what is red", "x" * 60, "a circle on the left of a square", "y" * 150, "zz"] * 3


async def results(engine, asked, **options):
    return {result.id: result async for result in engine.generate(asked, **options)}


async def texts(engine, asked, **options):
    return {name: result.pieces for name, result in (await results(engine, asked, **options)).items()}


async def test_a_request_has_the_same_tokens_alone_and_in_a_batch(engine, model):
    asked = requests(model, PROMPTS, temperature=1.0, max_new_tokens=40)
    together = await texts(engine, asked)
    alone = {}
    for request in asked:
        alone |= await texts(engine, [request])
    assert alone == together
    assert len(set(together.values())) > len(PROMPTS) // 2


async def test_every_sampling_setting_shares_a_batch(engine, model):
    mixed = [
        request
        for i, settings in enumerate(({"temperature": 0.0}, {"temperature": 0.7, "top_p": 0.9}, {"temperature": 1.5}))
        for request in requests(model, PROMPTS[: i + 2], max_new_tokens=5 + 20 * i, **settings)
    ]
    asked = [type(r)(str(i), r.model, r.turns, r.sampling, r.seed) for i, r in enumerate(mixed)]
    together = await texts(engine, asked)
    for request in asked:
        assert await texts(engine, [request]) == {request.id: together[request.id]}


async def test_many_small_batches_give_what_one_large_batch_gives(model):
    asked = requests(model, PROMPTS, temperature=1.0, max_new_tokens=30)
    found = []
    for settings in ({"max_batch_rows": 128}, {"max_batch_rows": 4, "prefill_tokens": 32}):
        async with open_transformers_engine(EngineConfig(threads=1, **settings)) as engine:
            found.append(await texts(engine, asked))
    assert found[0] == found[1]


async def test_a_deterministic_request_repeats_itself_beside_other_work(engine, model):
    asked = requests(model, PROMPTS, temperature=1.0, max_new_tokens=40)
    quiet = await texts(engine, asked, deterministic=True)
    noise = asyncio.create_task(texts(engine, requests(model, ["noise"] * 20, temperature=1.0, max_new_tokens=60)))
    assert await texts(engine, asked, deterministic=True) == quiet
    await noise


async def test_a_deterministic_request_that_is_no_batch_is_refused(model):
    async with open_transformers_engine(EngineConfig(threads=1, cache_budget_bytes=1 << 20)) as engine:
        with pytest.raises(InvalidArgument) as caught:
            await results(engine, requests(model, ["a"] * 100, max_new_tokens=400), deterministic=True)
        assert caught.value.reason == "BATCH_TOO_LARGE"
        assert int(caught.value.metadata["size_bytes"]) > 1 << 20
        assert len(await results(engine, requests(model, ["a"] * 100, max_new_tokens=4))) == 100


async def test_greedy_ignores_the_seed_and_sampling_follows_it(engine, model):
    greedy = await texts(engine, requests(model, ["a"] * 2, seeds=[1, 2], max_new_tokens=20))
    assert greedy["0"] == greedy["1"]
    drawn = await texts(engine, requests(model, ["a"] * 3, seeds=[1, 2, 1], temperature=1.0, max_new_tokens=20))
    assert drawn["0"] == drawn["2"] != drawn["1"]


async def test_answers_follow_the_models_distribution(engine, tmp_path):
    """16.27 is the 0.999 quantile of chi-square with 3 degrees of freedom."""
    wanted = {"one": 0.5, "two": 0.25, "three": 0.2, "four": 0.05}
    model = chain_model(tmp_path / "chain", {"<assistant>": wanted, **{word: {"</s>": 1.0} for word in wanted}})
    found = await texts(engine, requests(model, ["go"] * 2000, temperature=1.0))
    counts = np.array([sum(pieces == (word,) for pieces in found.values()) for word in wanted])
    expected = 2000 * np.array(list(wanted.values()))
    assert counts.sum() == 2000
    assert float(((counts - expected) ** 2 / expected).sum()) < 16.27


async def test_an_answer_ends_at_its_end_its_stop_or_its_bound(engine, tmp_path):
    chain = {"<assistant>": {"a": 1.0}, "a": {"b": 1.0}, "b": {"c": 1.0}, "c": {"d": 1.0}, "d": {"</s>": 1.0}}
    model = chain_model(tmp_path / "chain", chain)
    for sampling, text, tokens, reason in (
        ({}, "abcd", 5, generation_pb2.FINISH_REASON_END),
        ({"max_new_tokens": 3}, "abc", 3, generation_pb2.FINISH_REASON_LENGTH),
        ({"stop": ["cd", "zz"]}, "ab", 4, generation_pb2.FINISH_REASON_STOP),
        ({"stop": ["a"]}, "", 1, generation_pb2.FINISH_REASON_STOP),
    ):
        result = (await results(engine, requests(model, ["go"], **sampling)))["0"]
        assert "".join(result.pieces) == text
        assert (result.info.completion_tokens, result.info.finish_reason) == (tokens, reason)
        assert result.info.prompt_tokens == len("go") + 3
        assert result.info.latency.ToNanoseconds() > 0


async def test_without_a_bound_an_answer_may_fill_the_context(engine, tmp_path):
    model = chain_model(tmp_path / "chain", {"<assistant>": {"a": 1.0}, "a": {"a": 1.0}}, context=64)
    info = (await results(engine, requests(model, ["x" * 10])))["0"].info
    assert info.prompt_tokens + info.completion_tokens == 64
    assert info.sampling.max_new_tokens == info.completion_tokens


async def test_a_prompt_longer_than_the_context_harms_only_itself(engine, model):
    found = await results(engine, requests(model, ["short", "x" * 600, "short too"], max_new_tokens=4))
    error = found["1"].error
    assert (error.reason, error.metadata) == ("PROMPT_TOO_LONG", {"prompt_tokens": "603", "context_tokens": "512"})
    assert found["0"].error is None
    assert found["2"].error is None


PAINTER = {
    "<assistant>": {"<image>": 0.5, "fine": 0.5},
    "<image>": {"</s>": 0.5, "fine": 0.5},  # it would break the span off at once
    **{f"code{index}": {"code1": 0.5, "</image>": 0.5} for index in range(4)},  # and cannot count
    "</image>": {"</s>": 1.0},
    "fine": {"</s>": 1.0},
}


async def test_a_media_span_is_well_formed_whatever_the_model_would_write(engine, tmp_path):
    model = chain_model(tmp_path / "chain", PAINTER)
    found = (await results(engine, requests(model, ["draw"] * 60, temperature=1.0))).values()
    assert [result.error for result in found if result.error] == []
    assert {(type(result.pieces[0]).__name__, result.info.completion_tokens) for result in found} == {
        ("str", 2),
        ("MediaBytes", 7),
    }


async def test_a_broken_media_span_harms_only_its_answer(engine, tmp_path):
    model = chain_model(tmp_path / "chain", PAINTER)
    found = (await results(engine, requests(model, ["draw"] * 60, temperature=1.0, max_new_tokens=4))).values()
    broken = [result for result in found if result.error]
    assert {result.error.reason for result in broken} == {"ANSWER_MALFORMED"}
    assert all(result.info.completion_tokens == 4 for result in broken)
    assert 15 < len(broken) < 45
    assert {result.pieces for result in found if not result.error} == {("fine",)}


async def test_an_abandoned_call_frees_its_rows_and_its_model(model):
    registry = CollectorRegistry()
    config = EngineConfig(threads=1, max_batch_rows=2)
    async with open_transformers_engine(config, metrics=registry) as engine:
        asked = requests(model, ["a"] * 6, temperature=1.0, max_new_tokens=400)
        await engine.load(model)
        call = asyncio.create_task(results(engine, asked))
        await until(lambda: registry.get_sample_value("omnialign_engine_rows_running"))
        call.cancel()
        await asyncio.gather(call, return_exceptions=True)
        assert registry.get_sample_value("omnialign_engine_queue_depth") == 0
        after = await results(engine, requests(model, ["c"] * 2, temperature=1.0, max_new_tokens=4))
        assert len(after) == 2
        assert registry.get_sample_value("omnialign_engine_requests_total", {"outcome": "cancelled"}) == 6
        assert registry.get_sample_value("omnialign_engine_tokens_total", {"direction": "out"}) <= 8
        await engine.unload(model)
        assert registry.get_sample_value("omnialign_engine_models_resident") == 0


async def test_a_full_queue_refuses_and_recovers(model):
    async with open_transformers_engine(EngineConfig(threads=1, max_waiting=4)) as engine:
        with pytest.raises(ResourceExhausted) as caught:
            await results(engine, requests(model, ["a"] * 5, max_new_tokens=2))
        assert caught.value.reason == "QUEUE_FULL"
        assert len(await results(engine, requests(model, ["a"] * 4, max_new_tokens=2))) == 4


async def test_closing_the_engine_fails_what_is_running(model):
    async with open_transformers_engine(EngineConfig(threads=1)) as engine:
        stream = engine.generate(requests(model, ["a"], max_new_tokens=400, temperature=1.0))
        pending = asyncio.create_task(anext(stream))
        await engine.load(model)
        engine.close()
        result = (await asyncio.gather(pending, return_exceptions=True))[0]
        error = result if isinstance(result, Exception) else result.error
        assert isinstance(error, Unavailable)


async def test_an_engine_that_waits_for_company_can_be_closed(model):
    async with open_transformers_engine(EngineConfig(lanes=2, linger_seconds=1.0)) as engine:
        asking = asyncio.create_task(results(engine, requests(model, ["hello"])))
        await until(lambda: engine._scheduler._waiting)
        async with asyncio.timeout(20):
            await asyncio.to_thread(engine.close)
        (result,) = (await asking).values()
        assert result.error.reason == "ENGINE_CLOSED"
