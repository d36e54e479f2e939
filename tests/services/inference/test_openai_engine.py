"""The OpenAI-compatible engine against a real HTTP server that plays every behaviour of an endpoint."""

import asyncio
import base64
import gzip
import json
from contextlib import aclosing, asynccontextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from aiohttp import web
from prometheus_client import CollectorRegistry

from omnialign.content import content
from omnialign.errors import (
    FailedPrecondition,
    InvalidArgument,
    NotFound,
    PermissionDenied,
    ResourceExhausted,
    Unavailable,
)
from omnialign.media import read_audio, read_image, read_video, write_audio, write_image, write_video
from omnialign.modeling.adapters import load_adapter
from omnialign.modeling.messages import MediaBytes, Turn
from omnialign.modeling.policy import MediaPolicy
from omnialign.v1 import content_pb2, generation_pb2
from omnialign.v1 import refinement_service_pb2 as pb
from services.inference.config import EngineConfig
from services.inference.engine import EngineRequest
from services.inference.openai_engine import open_openai_engine
from tests.services.inference import world
from tests.services.inference.endpoints import (
    QuickClock,
    chat,
    drop,
    fails,
    flood,
    hang,
    page,
    refuse,
    says,
    serve_stub,
)

CONTEXT = "This model's maximum context length is 64 tokens. However, your prompt contains 80 input tokens."
PNG = b"\x89PNG\r\n\x1a\nnot really"


@pytest.fixture
async def stub():
    async with serve_stub() as stub:
        yield stub


@asynccontextmanager
async def opened(stub, *, registry=None, clock=None, **settings):
    config = EngineConfig(**{"openai_endpoints": (stub.base_url,), "openai_retry_seconds": 60.0, **settings})
    async with open_openai_engine(config, metrics=registry, clock=clock or QuickClock()) as engine:
        yield engine


def request(model, *pieces, name="0", seed=7, **sampling):
    params = generation_pb2.SamplingParams(**sampling)
    return EngineRequest(name, model, (Turn("user", pieces),), params, seed=seed)


async def ask(engine, *requests):
    """The results, in the order of the requests."""
    async with aclosing(engine.generate(requests)) as results:
        found = {result.id: result async for result in results}
    return [found[request.id] for request in requests]


async def one(stub, *pieces, **sampling):
    async with opened(stub) as engine:
        (result,) = await ask(engine, request(stub.model(), *pieces, **sampling))
    return result


async def test_a_chat_is_sent_with_its_sampling_and_read_with_its_counts(stub):
    result = await one(stub, "Say hello", temperature=0.5, top_p=0.9, max_new_tokens=9, stop=["###"])
    assert result.pieces == ("Say hello",)
    assert (result.info.prompt_tokens, result.info.completion_tokens) == (5, 2)
    assert result.info.finish_reason == generation_pb2.FINISH_REASON_END
    assert stub.asked == [
        {
            "model": "stub",
            "messages": [{"role": "user", "content": "Say hello"}],
            "temperature": 0.5,
            "top_p": 0.9,
            "seed": 7,
            "stop": ["###"],
            "max_tokens": 9,
        }
    ]


async def test_media_travel_as_parts_with_their_bytes_as_they_are(stub):
    image = MediaBytes(content_pb2.MODALITY_IMAGE, PNG)
    sound = MediaBytes(content_pb2.MODALITY_AUDIO, b"RIFF....WAVE")
    video = MediaBytes(content_pb2.MODALITY_VIDEO, b"....ftypisom")
    await one(stub, "Look", image, sound, video)
    text, picture, tone, film = stub.asked[0]["messages"][0]["content"]
    assert text == {"type": "text", "text": "Look"}
    assert picture["image_url"]["url"] == "data:image/png;base64," + base64.b64encode(PNG).decode()
    assert tone == {
        "type": "input_audio",
        "input_audio": {"data": base64.b64encode(b"RIFF....WAVE").decode(), "format": "wav"},
    }
    assert film["video_url"]["url"] == "data:video/mp4;base64," + base64.b64encode(b"....ftypisom").decode()


async def test_a_policy_bounds_what_is_sent_and_what_was_left_out_is_noted(stub):
    sound = MediaBytes(content_pb2.MODALITY_AUDIO, write_audio(np.zeros(32_000, np.float32), 16_000))
    picture = MediaBytes(content_pb2.MODALITY_IMAGE, write_image(np.zeros((64, 64, 3), np.uint8)))
    video = MediaBytes(content_pb2.MODALITY_VIDEO, write_video(np.zeros((8, 32, 32, 3), np.uint8), 4.0))
    policy = MediaPolicy(max_pixels=256, max_frames=2, max_audio_seconds=0.5)
    async with opened(stub) as engine:
        (result,) = await ask(engine, replace(request(stub.model(), picture, sound, video), policy=policy))
    seen, heard, watched = stub.asked[0]["messages"][0]["content"]
    assert read_image(_bytes(seen["image_url"]["url"])).shape == (16, 16, 3)
    assert len(read_audio(_bytes(heard["input_audio"]["data"]))[0]) == 8_000
    assert len(read_video(_bytes(watched["video_url"]["url"]))[0]) == 2
    assert [loss.reason for loss in result.info.media_losses] == ["MEDIA_CUT"]


def _bytes(text):
    return base64.b64decode(text.rpartition(",")[2])


async def test_a_medium_that_a_policy_cannot_read_fails_its_prompt_alone(stub):
    broken = request(stub.model(), MediaBytes(content_pb2.MODALITY_IMAGE, PNG))
    async with opened(stub) as engine:
        (result,) = await ask(engine, replace(broken, policy=MediaPolicy(max_pixels=100)))
    assert result.error.reason == "MEDIA_UNDECODABLE"
    assert stub.asked == []


async def test_a_schema_binds_the_answer_of_a_chat(stub):
    async with opened(stub) as engine:
        await ask(engine, replace(request(stub.model(), "x"), json_schema='{"type": "object"}'))
    assert stub.asked[0]["response_format"]["json_schema"]["schema"] == {"type": "object"}


async def test_a_stop_text_that_the_endpoint_overlooks_ends_the_answer_all_the_same(stub):
    assert (await one(stub, "one ### two", stop=["###"])).pieces == ("one",)


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (chat("", finish_reason="length"), generation_pb2.FINISH_REASON_LENGTH),
        (chat("a", stop_reason="###"), generation_pb2.FINISH_REASON_STOP),
        (chat("a", stop_reason=2), generation_pb2.FINISH_REASON_END),
        (chat(None, finish_reason="tool_calls"), generation_pb2.FINISH_REASON_UNSPECIFIED),
    ],
)
async def test_the_reason_to_end_is_the_endpoints(stub, body, reason):
    stub.acts.append(says(body))
    assert (await one(stub, "x")).info.finish_reason == reason


async def test_a_refusal_is_the_result_of_its_prompt_alone(stub):
    stub.acts.append(says(chat("", finish_reason="content_filter")))
    assert (await one(stub, "x")).error.reason == "ANSWER_REFUSED"


@pytest.mark.parametrize("value", ["7", "Fri, 15 Jan 2027 08:00:07 GMT"])  # the second is seven seconds from the start
async def test_after_429_the_endpoint_is_left_alone_as_long_as_it_asks(stub, value):
    clock = QuickClock()
    stub.acts.append(fails(429, Retry_After=value))
    async with opened(stub, clock=clock) as engine:
        (result,) = await ask(engine, request(stub.model(), "x"))
    assert result.pieces == ("x",)
    assert 6.99 < sum(clock.slept) < 7.5


async def test_a_wish_to_wait_beyond_the_budget_ends_the_request_at_once(stub):
    clock = QuickClock()
    stub.default = fails(429, "come tomorrow", Retry_After="86400")
    async with opened(stub, clock=clock) as engine:
        with pytest.raises(Unavailable, match="come tomorrow") as caught:
            await ask(engine, request(stub.model(), "x"))
    assert (caught.value.reason, caught.value.metadata["kind"]) == ("ENDPOINT_UNAVAILABLE", "rate_limit")
    assert (len(stub.asked), clock.slept) == (1, [])


async def test_overload_halves_the_limit_and_shows_in_the_metrics(stub):
    registry = CollectorRegistry()
    stub.acts += [fails(429), fails(503)]
    async with opened(stub, registry=registry) as engine:
        await ask(engine, request(stub.model(), "x"))
    labels = {"endpoint": stub.base_url}
    assert registry.get_sample_value("omnialign_endpoint_concurrency_limit", labels) == 2
    assert registry.get_sample_value("omnialign_endpoint_requests_running", labels) == 0
    for reason in ("rate_limit", "overload"):
        assert registry.get_sample_value("omnialign_endpoint_retries_total", {**labels, "reason": reason}) == 1
    assert registry.get_sample_value("omnialign_endpoint_requests_total", {**labels, "outcome": "end"}) == 1
    assert registry.get_sample_value("omnialign_endpoint_tokens_total", {**labels, "direction": "in"}) == 5


@pytest.mark.parametrize("act", [fails(500), fails(502), page(status=503), fails(408), drop, refuse])
async def test_what_may_pass_is_tried_again(stub, act):
    stub.acts += [act, act]
    assert (await one(stub, "x")).pieces == ("x",)
    assert len(stub.asked) == 3


@pytest.mark.parametrize("act", [drop, refuse])
async def test_a_connection_that_breaks_is_no_overload(stub, act):
    registry = CollectorRegistry()
    stub.acts.append(act)
    async with opened(stub, registry=registry) as engine:
        await ask(engine, request(stub.model(), "x"))
    labels = {"endpoint": stub.base_url}
    assert registry.get_sample_value("omnialign_endpoint_retries_total", {**labels, "reason": "connection"}) == 1
    assert registry.get_sample_value("omnialign_endpoint_concurrency_limit", labels) == 8


async def test_an_endpoint_that_hangs_is_given_up_when_the_budget_ends(stub):
    stub.default = hang
    async with opened(stub, openai_request_seconds=0.05, openai_max_retries=2) as engine:
        with pytest.raises(Unavailable, match="in time") as caught:
            await ask(engine, request(stub.model(), "x"))
    assert caught.value.metadata["retries"] == "2"
    assert len(stub.asked) == 3


async def test_an_endpoint_that_is_gone_is_named_with_the_last_reason():
    async with serve_stub() as gone:
        pass
    clock = QuickClock()
    async with opened(gone, clock=clock) as engine:
        with pytest.raises(Unavailable, match="ConnectionRefusedError") as caught:
            await ask(engine, request(gone.model(), "x"))
    assert caught.value.metadata["endpoint"] == gone.base_url
    assert sum(clock.slept) <= 60


async def test_one_bad_prompt_does_not_end_the_others(stub):
    async def poisoned(request):
        text = json.loads(await request.read())["messages"][0]["content"]
        return await (fails(500, "boom") if text == "poison" else says(chat(text)))(request)

    stub.default = poisoned
    async with opened(stub, openai_max_retries=3) as engine:
        requests = [request(stub.model(), text, name=text) for text in ("poison", "a", "b")]
        bad, first, second = await ask(engine, *requests)
    assert (first.pieces, second.pieces) == (("a",), ("b",))
    assert bad.error.reason == "ENDPOINT_UNAVAILABLE"
    assert "500: boom" in bad.error.message


async def test_an_endpoint_that_dies_ends_the_call_though_it_has_answered_others(stub):
    stub.acts += [says(chat("a"))] * 3
    stub.default = fails(502)
    found = []
    async with opened(stub, openai_concurrency=1) as engine:
        requests = [request(stub.model(), "x", name=str(i)) for i in range(5)]
        with pytest.raises(Unavailable):
            async with aclosing(engine.generate(requests)) as results:
                async for result in results:
                    found.append(result.pieces)
    assert found == [("a",)] * 3


@pytest.mark.parametrize(
    "act",
    [
        page(),
        page(status=404),
        says(["a", "list"]),
        says({"choices": []}),
        says({"choices": [{"message": {"content": ["Welcome"]}}]}),
        says({}, status=307, Location="http://127.0.0.1:9/v1/chat/completions"),
    ],
)
async def test_what_is_no_answer_of_such_an_endpoint_is_quoted(stub, act):
    stub.default = act
    with pytest.raises(FailedPrecondition, match="OpenAI-compatible") as caught:
        await one(stub, "x")
    assert caught.value.reason == "ENDPOINT_INVALID"
    assert len(stub.asked) == 1


async def test_html_is_quoted_by_its_first_characters(stub):
    stub.default = page("<html>Welcome " + "x" * 1000)
    with pytest.raises(FailedPrecondition) as caught:
        await one(stub, "x")
    assert caught.value.metadata["begins"].startswith("<html>Welcome xxx")
    assert len(caught.value.metadata["begins"]) == 200


async def test_an_answer_without_end_is_broken_off(stub, monkeypatch):
    monkeypatch.setattr("services.inference.openai_endpoint.MAX_ANSWER_BYTES", 1 << 17)
    stub.default = flood
    with pytest.raises(FailedPrecondition, match="bytes"):
        await one(stub, "x")


async def test_a_packed_answer_is_not_unpacked(stub):
    async def bomb(request):
        packed = gzip.compress(b" " * (1 << 20))
        return web.Response(body=packed, headers={"Content-Encoding": "gzip", "Content-Type": "application/json"})

    stub.default = bomb
    with pytest.raises(FailedPrecondition, match="packed"):
        await one(stub, "x")
    assert stub.headers[0]["Accept-Encoding"] == "identity"


async def test_json_too_deep_to_read_is_no_answer(stub):
    stub.default = page("[" * 100_000)
    with pytest.raises(FailedPrecondition) as caught:
        await one(stub, "x")
    assert caught.value.reason == "ENDPOINT_INVALID"


@pytest.mark.parametrize(("status", "code"), [(401, None), (403, None), (429, "insufficient_quota")])
async def test_a_refused_key_ends_the_call_and_is_not_in_the_message(stub, tmp_path, status, code):
    keys = tmp_path / "keys"
    keys.write_text(f"# ours\n{stub.base_url} secret-key\n")
    stub.default = fails(status, "wrong key secret-key", code=code)
    async with opened(stub, openai_keys_file=keys) as engine:
        with pytest.raises(PermissionDenied) as caught:
            await ask(engine, request(stub.model(), "x"))
    assert caught.value.reason == "ENDPOINT_REFUSED"
    assert "secret-key" not in f"{caught.value.message} {caught.value.metadata}"
    assert stub.headers[0]["Authorization"] == "Bearer secret-key"


async def test_a_key_that_the_endpoint_repeats_is_hidden(stub, tmp_path):
    keys = tmp_path / "keys"
    keys.write_text(f"{stub.base_url} secret-key")
    stub.default = fails(422, "secret-key is odd")
    async with opened(stub, openai_keys_file=keys) as engine:
        (result,) = await ask(engine, request(stub.model(), "x"))
    assert result.error.reason == "ENDPOINT_REJECTED"
    assert "*** is odd" in result.error.message


async def test_no_key_of_another_endpoint_or_of_the_environment_is_sent(stub, tmp_path, monkeypatch):
    for name in ("OPENAI_API_KEY", "OPENAI_ORG_ID", "OPENAI_PROJECT_ID", "OPENAI_ADMIN_KEY"):
        monkeypatch.setenv(name, "from-the-environment")
    keys = tmp_path / "keys"
    keys.write_text("https://api.example.com/v1 others-key")
    async with opened(stub, openai_keys_file=keys) as engine:
        await ask(engine, request(stub.model(), "x"))
    assert "Authorization" not in stub.headers[0]
    assert not {"from-the-environment", "others-key"} & set(stub.headers[0].values())


async def test_an_unknown_model_ends_the_call(stub):
    stub.default = fails(404, "The model `stub` does not exist.")
    with pytest.raises(NotFound, match="does not exist") as caught:
        await one(stub, "x")
    assert caught.value.reason == "MODEL_NOT_FOUND"


async def test_a_bound_of_new_tokens_gives_way_to_a_long_prompt(stub):
    stub.acts.append(fails(400, CONTEXT))
    assert (await one(stub, "x", max_new_tokens=60)).pieces == ("x",)
    assert [("max_tokens" in body) for body in stub.asked] == [True, False]


@pytest.mark.parametrize(
    "act", [fails(400, CONTEXT), fails(400, "too big", code="context_length_exceeded")], ids=["words", "code"]
)
async def test_a_prompt_that_is_too_long_is_the_result_of_its_request(stub, act):
    stub.default = act
    assert (await one(stub, "x", max_new_tokens=60)).error.reason == "PROMPT_TOO_LONG"


async def test_an_endpoint_that_is_not_listed_is_never_asked(stub):
    async with opened(stub, openai_endpoints=()) as engine:
        with pytest.raises(PermissionDenied) as caught:
            await ask(engine, request(stub.model(), "x"))
    assert caught.value.reason == "ENDPOINT_NOT_ALLOWED"
    assert stub.asked == []


async def test_closing_the_results_closes_the_requests(stub):
    stub.default = hang
    async with opened(stub) as engine:
        results = engine.generate([request(stub.model(), "x")])
        first = asyncio.create_task(anext(results))
        await stub.arrived.wait()
        first.cancel()
        await asyncio.wait([first])
        await results.aclose()
        async with asyncio.timeout(5):
            await stub.cancelled.wait()


async def test_the_limit_holds_over_all_calls(stub):
    async with opened(stub, openai_concurrency=3) as engine:
        calls = [ask(engine, *(request(stub.model(), "x", name=str(i)) for i in range(10))) for _ in range(3)]
        found = await asyncio.gather(*calls)
    assert sum(len(results) for results in found) == 30
    assert stub.most_running <= 3


async def test_more_requests_than_may_wait_are_refused(stub):
    async with opened(stub, max_waiting=1) as engine:
        with pytest.raises(ResourceExhausted):
            await ask(engine, request(stub.model(), "x", name="0"), request(stub.model(), "x", name="1"))


async def test_determinism_is_not_promised(stub):
    async with opened(stub) as engine:
        with pytest.raises(InvalidArgument) as caught:
            await anext(engine.generate([request(stub.model(), "x")], deterministic=True))
    assert caught.value.reason == "ENDPOINT_NOT_DETERMINISTIC"


async def test_loading_sees_that_the_endpoint_has_the_model(stub):
    async with opened(stub) as engine:
        await engine.load(stub.model())
        with pytest.raises(NotFound):
            await engine.load(stub.model("another"))
        await engine.unload(stub.model())


async def test_token_ids_carry_media_both_ways(stub, model):
    adapter = load_adapter(Path(model.removeprefix("file://")))
    picture = MediaBytes(content_pb2.MODALITY_IMAGE, write_image(np.full((16, 16, 3), (255, 0, 0), np.uint8)))
    (written,) = adapter.decode(adapter.encode_answer([picture]))
    stub.default = says({"choices": [{"token_ids": adapter.encode_answer([picture]), "finish_reason": "stop"}]})
    async with opened(stub) as engine:
        asked = request(stub.model(adapter=model), "draw", picture, max_new_tokens=90, stop=["x"])
        (result,) = await ask(engine, asked)
    assert result.pieces == (written,)
    assert stub.asked[0]["prompt"] == adapter.encode(asked.turns).ids
    assert stub.asked[0]["stop_token_ids"] == [adapter.end_id]
    assert "stop" not in stub.asked[0]
    assert result.info.completion_tokens == len(adapter.encode_answer([picture]))


async def test_half_a_media_span_is_the_fault_of_its_answer(stub, model):
    adapter = load_adapter(Path(model.removeprefix("file://")))
    picture = MediaBytes(content_pb2.MODALITY_IMAGE, write_image(np.full((16, 16, 3), (255, 0, 0), np.uint8)))
    stub.default = says({"choices": [{"token_ids": adapter.encode_answer([picture])[:4], "finish_reason": "length"}]})
    async with opened(stub) as engine:
        (result,) = await ask(engine, request(stub.model(adapter=model), "draw"))
    assert result.error.reason == "ANSWER_MALFORMED"
    assert result.info.completion_tokens == 4


async def test_an_endpoint_without_token_ids_cannot_be_asked_with_an_adapter(stub, model):
    stub.default = says({"choices": [{"text": "hello", "finish_reason": "stop"}]})
    async with opened(stub) as engine:
        with pytest.raises(FailedPrecondition, match="token_ids"):
            await ask(engine, request(stub.model(adapter=model), "draw"))


async def test_an_adapter_that_is_not_there_ends_the_call(stub, tmp_path):
    async with opened(stub) as engine:
        with pytest.raises(NotFound):
            await ask(engine, request(stub.model(adapter=(tmp_path / "none").as_uri()), "draw"))


async def test_a_model_service_asks_an_endpoint_by_the_models_name(stub, tmp_path):
    items = [pb.GenerateItem(id="a", prompt=content("Say hello"), seed=3)]
    async with world.serve_plane(tmp_path, openai_endpoints=(stub.base_url,)) as plane:
        results = plane.client.generate(pb.GenerateRequest(model=stub.model(), items=items))
        (answer,) = [result async for result in results]
    assert "Say hello" in answer.response.content.parts[0].text
    assert answer.response.generation.model == stub.model()
