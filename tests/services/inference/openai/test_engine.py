"""The OpenAI-compatible engine against a real HTTP server: what is sent, what is read, and how many at a time."""

import asyncio
import base64
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from omnialign.content import content
from omnialign.errors import FailedPrecondition, InvalidArgument, NotFound, ResourceExhausted
from omnialign.media import read_audio, read_image, read_video, write_audio, write_image, write_video
from omnialign.modeling.adapters import load_adapter
from omnialign.modeling.inputs import MediaBytes, MediaPolicy
from omnialign.v1 import content_pb2, generation_pb2
from omnialign.v1 import refinement_service_pb2 as pb
from tests.services.inference.openai.asking import ask, one, opened, request
from tests.services.inference.service_stack import serve_stack
from tests.services.inference.stub_endpoint import chat, fails, hang, says

CONTEXT = "This model's maximum context length is 64 tokens. However, your prompt contains 80 input tokens."
PNG = b"\x89PNG\r\n\x1a\nnot really"


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
    asked = stub.asked[0]["response_format"]["json_schema"]
    assert (asked["schema"], asked["strict"]) == ({"type": "object"}, True)


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


async def test_half_of_a_surrogate_pair_in_an_answer_becomes_a_question_mark(stub):
    stub.acts.append(says(chat("an emoji: \ud83d")))
    assert (await one(stub, "x")).pieces == ("an emoji: ?",)


async def test_a_refusal_is_the_result_of_its_prompt_alone(stub):
    stub.acts.append(says(chat("", finish_reason="content_filter")))
    assert (await one(stub, "x")).error.reason == "ANSWER_REFUSED"


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


async def test_tokens_are_not_to_be_had_from_an_endpoint(stub):
    async with opened(stub) as engine:
        with pytest.raises(InvalidArgument) as caught:
            await anext(engine.generate([replace(request(stub.model(), "x"), return_tokens=True)]))
    assert caught.value.reason == "TOKENS_UNSUPPORTED"


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
    async with serve_stack(tmp_path, openai_endpoints=(stub.base_url,)) as plane:
        results = plane.client.generate(pb.GenerateRequest(model=stub.model(), items=items))
        (answer,) = [result async for result in results]
    assert "Say hello" in answer.response.content.parts[0].text
    assert answer.response.generation.model == stub.model()
