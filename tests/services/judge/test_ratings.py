"""Ratings over real servers: read or abstained, asked again within the budget, and never a number by accident."""

import json

import numpy as np
import pytest

from omnialign.client import Client
from omnialign.content import content
from omnialign.errors import InvalidArgument, from_status
from omnialign.media import write_image
from omnialign.v1 import content_pb2, record_pb2
from omnialign.v1 import judge_service_pb2 as pb
from omnialign.v1.generation_pb2 import ANSWER_FORM_SECTIONS, SamplingParams
from services.inference.item_loop import derived_seed
from services.judge.retries import RETRY_TEMPERATURE
from tests.services.inference import model_factory
from tests.services.inference.service_stack import serve_stack
from tests.services.inference.stub_endpoint import chat, fails, obeying, says, serve_stub

GOOD, BAD = "##Reason: it beeps ##Rating: 7", "Rating: 7/10, I would say"
REFERENCES = [record_pb2.ReferenceAnswer(answer="It beeps.", key_terms={"audio": record_pb2.KeyTerms(terms=["beep"])})]
TEXT, IMAGE = content_pb2.MODALITY_TEXT, content_pb2.MODALITY_IMAGE


@pytest.fixture
async def stub():
    async with serve_stub() as stub:
        yield stub


@pytest.fixture
async def plane(tmp_path, stub):
    """The services, which may ask the endpoint."""
    async with serve_stack(tmp_path / "data", openai_endpoints=(stub.base_url,)) as found:
        yield found


@pytest.fixture(scope="module")
def half_readable(tmp_path_factory):
    """A judge that writes a rating half of the time; greedy, it never does."""
    answers = {GOOD: 0.45, BAD: 0.55}
    chain = {"<assistant>": answers, **{answer: {"</s>": 1.0} for answer in answers}}
    return model_factory.chain_model(tmp_path_factory.mktemp("models") / "judge", chain)


def question(name="a", *, response="It beeps.", category="", seed=0):
    prompt = content("What does it do?")
    return pb.UnderstandingItem(
        id=name, prompt=prompt, response=content(response), references=REFERENCES, category=category, seed=seed
    )


def made(name="a", *response, modality=TEXT, seed=0):
    return pb.GenerationItem(
        id=name, prompt=content("Draw."), response=content(*response), modality=modality, seed=seed
    )


async def understand(plane, model, *items, **fields):
    request = pb.ScoreUnderstandingRequest(model=model, items=items, **fields)
    return {result.id: result async for result in plane.client.score_understanding(request)}


async def generation(plane, model, *items, **fields):
    request = pb.ScoreGenerationRequest(model=model, items=items, **fields)
    return {result.id: result async for result in plane.client.score_generation(request)}


async def test_an_abstention_is_asked_again_with_other_seeds_and_no_longer_greedily(plane, half_readable):
    items = [question(str(i), seed=i) for i in range(40)]
    found = await understand(plane, half_readable, *items, max_retries=3)
    assert len(found) == 40
    assert {result.attempts for result in found.values()} == {2, 3, 4}  # never at once: a greedy judge writes BAD
    for name, result in found.items():
        written = result.rating if result.HasField("rating") else result.abstention
        seed = derived_seed(int(name), purpose=f"attempt {result.attempts}")
        assert (written.generation.seed, written.generation.sampling.temperature) == (seed, RETRY_TEMPERATURE)
        assert written.generation.model == half_readable
        if result.HasField("rating"):
            assert (result.rating.score, result.rating.reason) == (7, "it beeps")
        else:
            assert (result.abstention.reason, result.abstention.text) == ("SECTION_MISSING", BAD)
            assert result.attempts == 4
    again = await understand(plane, half_readable, *items, max_retries=3)
    assert {n: (r.attempts, r.rating.score) for n, r in again.items()} == {
        n: (r.attempts, r.rating.score) for n, r in found.items()
    }


async def test_a_request_without_a_budget_asks_thrice_and_one_without_retries_once(plane, stub):
    stub.default = says(chat("NaN"))
    for fields, attempts in (({}, 3), ({"max_retries": 0}, 1)):
        stub.asked.clear()
        (result,) = (await understand(plane, stub.model(), question(), **fields)).values()
        assert (result.abstention.reason, result.abstention.text) == ("ANSWER_NOT_JSON", "NaN")
        assert result.attempts == attempts == len(stub.asked)
        assert len({asked["seed"] for asked in stub.asked}) == attempts
    assert not result.HasField("rating")


@pytest.mark.parametrize("words", ["NaN", "[[11]]", "Rating: 7/10", "", '{"reason": "a", "rating": 7.5}', "0"])
async def test_what_is_no_rating_is_asked_again_until_it_is_one(plane, stub, words):
    stub.acts += [says(chat(words)), says(chat('{"reason": "a", "rating": 7', finish_reason="length"))]
    stub.default = says(chat('{"reason": "it beeps", "rating": 9}'))
    (result,) = (await understand(plane, stub.model(), question())).values()
    assert (result.rating.score, result.attempts) == (9, 3)
    temperatures = [asked.get("temperature", 0) for asked in stub.asked]
    assert temperatures == [0, RETRY_TEMPERATURE, RETRY_TEMPERATURE]


async def test_the_temperature_of_a_request_stays_as_it_is(plane, stub):
    stub.default = says(chat("no"))
    await understand(plane, stub.model(), question(), sampling=SamplingParams(temperature=0.9))
    assert [asked["temperature"] for asked in stub.asked] == [0.9, 0.9, 0.9]


async def test_only_the_items_that_abstained_are_asked_again_and_an_error_is_not(plane, stub):
    async def by_the_response(request):
        words = json.loads(await request.read())["messages"][0]["content"]
        if "refused" in words:
            return await fails(400, "no such thing")(request)
        return await (says(chat("hm")) if "mumbled" in words else obeying("fine"))(request)

    stub.default = by_the_response
    items = [question(word, response=word) for word in ("refused", "mumbled", "fine")]
    found = await understand(plane, stub.model(), *items)
    assert from_status(found["refused"].error).reason == "ENDPOINT_REJECTED"
    assert found["refused"].attempts == found["fine"].attempts == 1
    assert found["mumbled"].abstention.reason == "ANSWER_NOT_JSON"
    assert len(stub.asked) == 5
    counted = {
        outcome: plane.server.registry.get_sample_value(
            "omnialign_judge_attempts_total", {"method": "ScoreUnderstanding", "outcome": outcome}
        )
        for outcome in ("answered", "abstained", "failed")
    }
    assert counted == {"answered": 1, "abstained": 3, "failed": 1}


async def test_a_general_model_is_asked_by_the_category_and_held_to_the_scale(plane, stub):
    stub.default = obeying("it beeps")
    items = [question(category, category=category) for category in ("perception", "safety", "beauty")]
    found = await understand(plane, stub.model(), *items)
    assert from_status(found["beauty"].error).reason == "CATEGORY_UNKNOWN"
    assert (found["safety"].rating.score, found["safety"].rating.reason) == (10, "it beeps")
    assert found["safety"].rating.generation.template.startswith("understanding_safety_json@1:")
    assert found["perception"].rating.generation.template.startswith("understanding_json@1:")
    schema = stub.asked[0]["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["rating"]["enum"] == list(range(1, 11))
    assert all("1. It beeps. (audio: beep)" in asked["messages"][0]["content"] for asked in stub.asked)


async def test_a_response_is_rated_in_the_modality_asked_for(plane, stub):
    picture = await plane.client.upload_media(write_image(np.zeros((8, 8, 3), np.uint8)), modality=IMAGE)
    stub.default = obeying("all is there")
    items = [
        made("text", "A poem."),
        made("image", "Here it is.", picture, modality=IMAGE),
        made("no-image", "I cannot draw.", modality=IMAGE),
        made("no-text", picture, modality=TEXT),
        made("empty", modality=TEXT),
    ]
    found = await generation(plane, stub.model(), *items)
    assert found["text"].rating.generation.template.startswith("generation_text_json@1:")
    assert found["image"].rating.generation.template.startswith("generation_media_json@1:")
    for name in ("no-image", "no-text", "empty"):
        assert from_status(found[name].error).reason == "RESPONSE_MODALITY_MISSING"
    assert len(stub.asked) == 2


async def test_a_trained_judge_rates_what_was_made(plane, half_readable):
    found = await generation(
        plane, half_readable, *(made(str(i), "A poem.", seed=i) for i in range(10)), max_retries=10
    )
    assert {(result.rating.score, result.rating.generation.template[:13]) for result in found.values()} == {
        (7, "generation@1:")
    }


async def test_a_deterministic_request_gives_the_same_ratings_retries_included(plane, half_readable):
    items = [question(str(i), seed=i) for i in range(8)]
    sampling = SamplingParams(deterministic=True)
    first, second = [
        {n: (r.attempts, r.rating.score, r.abstention.text) for n, r in found.items()}
        for found in [await understand(plane, half_readable, *items, sampling=sampling) for _ in range(2)]
    ]
    assert first == second
    assert any(attempts > 1 for attempts, _, _ in first.values())


async def test_requests_that_make_no_sense_are_refused(plane, stub):
    without = question()
    del without.references[:]
    for ask, item in ((understand, without), (generation, made("a", "b", modality=0))):
        with pytest.raises(InvalidArgument):
            await ask(plane, stub.model(), item)
    with pytest.raises(InvalidArgument):
        await understand(plane, stub.model(), question(), max_retries=11)
    assert not stub.asked


async def test_the_synchronous_client_asks_alike(plane, stub):
    import asyncio

    stub.default = says(chat(GOOD))
    request = pb.ScoreUnderstandingRequest(model=stub.model(), items=[question()], answer_form=ANSWER_FORM_SECTIONS)

    def ask():
        with Client(plane.server.address) as client:
            return list(client.score_understanding(request))

    (result,) = await asyncio.to_thread(ask)
    assert result.rating.score == 7
