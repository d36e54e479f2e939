"""Responses and refinements over real servers: a result for every item, media stored, errors of one item alone."""

import asyncio
import random

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from omnialign.content import content
from omnialign.errors import InvalidArgument, NotFound, from_status
from omnialign.media import read_image
from omnialign.v1 import content_pb2, generation_pb2, record_pb2
from omnialign.v1 import refinement_service_pb2 as pb
from tests.services.inference import model_factory
from tests.services.inference.service_stack import serve_stack

PAINTER = {
    "<assistant>": {"look: ": 0.8, "well": 0.2},
    "well": {" then": 1.0},
    " then": {" just": 1.0},
    " just": {"look: ": 1.0},
    "look: ": {"<image>": 1.0},
    "<image>": {"code1": 1.0},
    "code1": {"code2": 1.0},
    "code2": {"code3": 1.0},
    "code3": {"code0": 1.0},
    "code0": {"</image>": 1.0},
    "</image>": {"</s>": 1.0},
}
BROKEN_MEDIA = content_pb2.Media(modality=content_pb2.MODALITY_IMAGE, mime_type="image/png", sha256="0" * 64)


@pytest.fixture(scope="module")
def painter(tmp_path_factory):
    """A model that draws a picture in 8 tokens, and takes too many words first in one of five."""
    return model_factory.chain_model(tmp_path_factory.mktemp("models") / "painter", PAINTER)


@pytest.fixture(scope="module")
def talker(tmp_path_factory):
    """A model that never ends by itself before thousands of tokens."""
    return model_factory.chain_model(
        tmp_path_factory.mktemp("models") / "talker", {"<assistant>": {"a": 1}, "a": {"a": 1}}
    )


@pytest.fixture
async def plane(tmp_path):
    async with serve_stack(tmp_path / "data", max_batch_rows=64) as found:
        yield found


def generate(model, prompts, **sampling):
    items = [pb.GenerateItem(id=f"item-{i}", prompt=prompt, seed=i) for i, prompt in enumerate(prompts)]
    return pb.GenerateRequest(model=model, sampling=generation_pb2.SamplingParams(**sampling), items=items)


async def test_an_answer_comes_back_with_its_media_and_its_lineage(plane, painter):
    prompts = [content(f"draw {i}") for i in range(30)]
    found = {
        r.id: r async for r in plane.client.generate(generate(painter, prompts, temperature=1.0, max_new_tokens=8))
    }
    assert len(found) == 30
    good = [r.response for r in found.values() if r.WhichOneof("result") == "response"]
    assert {from_status(r.error).reason for r in found.values() if r.HasField("error")} == {"ANSWER_MALFORMED"}
    assert 15 < len(good) < 30
    text, picture = good[0].content.parts
    assert text.text == "look:"
    pixels = read_image(await plane.client.get_media(picture.media.sha256))
    assert pixels[0, 0].tolist() == [255, 0, 0]
    assert picture.media.mime_type == "image/png"
    info = good[0].generation
    assert (good[0].source, info.model) == (painter, painter)
    assert info.template.startswith("response@1:")
    assert (info.completion_tokens, info.finish_reason) == (8, generation_pb2.FINISH_REASON_END)
    assert info.sampling.temperature == 1.0


async def test_a_refinement_reads_the_response_and_the_words_of_its_feedback(plane, painter):
    drawn = [r async for r in plane.client.generate(generate(painter, [content("draw")] * 10, temperature=1.0))]
    response = next(r.response for r in drawn if r.HasField("response"))
    feedback = record_pb2.Feedback(critique="too dark", refinement="make it brighter")
    items = [
        pb.RefineItem(id="good", prompt=content("draw"), response=response.content, feedback=feedback, seed=4),
        pb.RefineItem(id="bad", prompt=content("draw", BROKEN_MEDIA), response=response.content, feedback=feedback),
    ]
    greedy = generation_pb2.SamplingParams(max_new_tokens=50)
    request = pb.RefineRequest(model=painter, sampling=greedy, items=items)
    found = {r.id: r async for r in plane.client.refine(request)}
    assert from_status(found["bad"].error).reason == "MEDIA_NOT_FOUND"
    info = found["good"].response.generation
    assert info.template.startswith("refinement@1:")
    assert info.prompt_tokens > len("too dark make it brighter") + 6  # the picture is in the prompt too
    assert info.seed == 4


async def test_a_registered_model_is_found_by_its_name(plane, painter):
    version = await plane.client.register_model("painter", painter)
    found = [r async for r in plane.client.generate(generate(version.name, [content("draw")], max_new_tokens=1))]
    assert found[0].response.source == version.name
    assert found[0].response.content == content("look:")


async def test_what_concerns_the_call_ends_the_call(plane, painter):
    request = generate(painter, [content("draw")] * 2)
    request.items[1].id = request.items[0].id
    with pytest.raises(InvalidArgument) as repeated:
        _ = [r async for r in plane.client.generate(request)]
    assert repeated.value.reason == "ITEM_ID_REPEATED"
    assert [field for field, _ in repeated.value.violations] == ["items[0].id", "items[1].id"]
    with pytest.raises(NotFound) as unknown:
        _ = [r async for r in plane.client.generate(generate("file:///no/such", [content("draw")]))]
    assert unknown.value.reason == "MODEL_NOT_FOUND"


async def test_a_long_prompt_harms_only_its_item(plane, talker):
    prompts = [content("short"), content("x" * 5000), content("short")]
    found = {r.id: r async for r in plane.client.generate(generate(talker, prompts, max_new_tokens=3))}
    assert from_status(found["item-1"].error).reason == "PROMPT_TOO_LONG"
    assert found["item-0"].response.content == found["item-2"].response.content == content("aaa")


async def test_the_same_deterministic_request_gives_the_same_answers(plane, painter):
    request = generate(painter, [content("draw")] * 12, temperature=1.0, deterministic=True)
    first, second = [
        {r.id: r.response.content if r.HasField("response") else "" async for r in plane.client.generate(request)}
        for _ in range(2)
    ]
    assert first == second


def running(plane):
    return plane.server.registry.get_sample_value("omnialign_engine_rows_running")


async def test_a_client_that_goes_away_stops_the_generation(plane, talker):
    stream = plane.client.generate(generate(talker, [content("go on")] * 8, max_new_tokens=4000))
    call = asyncio.create_task(anext(stream))
    await model_factory.until(lambda: running(plane) == 8)
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)
    await model_factory.until(lambda: not running(plane))
    written = plane.server.registry.get_sample_value("omnialign_engine_tokens_total", {"direction": "out"})
    assert not written  # no row reached its end
    found = [r async for r in plane.client.generate(generate(talker, [content("hi")], max_new_tokens=2))]
    assert found[0].response.content == content("aa")


async def test_health_answers_while_the_model_works(plane, talker):
    stream = plane.client.generate(generate(talker, [content("go on")] * 64, max_new_tokens=4000))
    call = asyncio.create_task(anext(stream))
    await model_factory.until(lambda: running(plane) == 64)
    async with grpc.aio.insecure_channel(plane.server.address) as channel:
        health = health_pb2_grpc.HealthStub(channel)
        for _ in range(20):
            answer = await health.Check(health_pb2.HealthCheckRequest(), timeout=5.0)
            assert answer.status == health_pb2.HealthCheckResponse.SERVING
    call.cancel()
    await asyncio.gather(call, return_exceptions=True)


async def test_two_calls_share_batches_and_each_gets_its_own_results(plane, painter):
    sizes = [random.Random(0).randint(1, 20) for _ in range(4)]

    async def ask(count):
        request = generate(painter, [content(f"draw {i}") for i in range(count)], temperature=1.0)
        return sorted([r.id async for r in plane.client.generate(request)])

    found = await asyncio.gather(*map(ask, sizes))
    assert found == [sorted(f"item-{i}" for i in range(count)) for count in sizes]
