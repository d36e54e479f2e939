"""Several samples of an item: distinct, reproducible, and the first of them what a request for one gets."""

import asyncio
from collections import defaultdict

import pytest

from omnialign.client import Client
from omnialign.content import content
from omnialign.errors import InvalidArgument, from_status
from omnialign.v1 import content_pb2, generation_pb2
from omnialign.v1 import refinement_service_pb2 as pb
from services.inference import progress
from tests.services.inference import model_factory
from tests.services.inference.service_stack import serve_stack

LOST = content_pb2.Media(modality=content_pb2.MODALITY_IMAGE, mime_type="image/png", sha256="0" * 64)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_factory.random_model(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture
async def client(tmp_path):
    async with serve_stack(tmp_path / "data") as stack:
        yield stack.client


async def generate(client, model, *prompts, **options):
    items = [pb.GenerateItem(id=f"item-{i}", prompt=prompt, seed=i) for i, prompt in enumerate(prompts)]
    sampling = generation_pb2.SamplingParams(temperature=1.0, max_new_tokens=8)
    request = pb.GenerateRequest(model=model, items=items, sampling=sampling, **options)
    return {(r.id, r.sample): r async for r in client.generate(request)}


async def test_samples_are_distinct_and_repeat_and_the_first_is_that_of_a_request_for_one(client, model):
    prompts = content("what is red"), content("go on")
    found = await generate(client, model, *prompts, num_samples=4, return_tokens=True)
    assert sorted(found) == [(f"item-{i}", k) for i in range(2) for k in range(4)]
    for name in ("item-0", "item-1"):
        assert len({tuple(found[name, k].tokens.ids) for k in range(4)}) == 4
        assert len({found[name, k].response.generation.seed for k in range(4)}) == 4
    again = await generate(client, model, *prompts, num_samples=4, return_tokens=True)
    assert {key: list(r.tokens.ids) for key, r in again.items()} == {k: list(r.tokens.ids) for k, r in found.items()}
    single = await generate(client, model, *prompts)
    assert sorted(single) == [("item-0", 0), ("item-1", 0)]
    for key, result in single.items():
        assert result.response.content == found[key].response.content
        assert not result.HasField("tokens")


async def test_an_item_that_cannot_be_read_fails_in_each_of_its_samples_and_harms_no_other(client, model):
    found = await generate(client, model, content("draw", LOST), content("go on"), num_samples=3)
    assert [from_status(found["item-0", k].error).reason for k in range(3)] == ["MEDIA_NOT_FOUND"] * 3
    assert all(found["item-1", k].HasField("response") for k in range(3))


async def test_more_responses_than_a_call_brings_are_refused_before_any_work(client, model):
    with pytest.raises(InvalidArgument) as refused:
        await generate(client, model, *[content("x")] * 65, num_samples=64)
    assert refused.value.reason == "SAMPLES_TOO_MANY"
    assert refused.value.metadata == {"items": "65", "num_samples": "64", "most": "4096"}


async def test_the_client_gives_samples_as_plain_values_in_order(client, model):
    options = {"temperature": 1.0, "max_new_tokens": 8, "seed": 3}
    samples = await client.generate(model, "go on", num_samples=3, return_tokens=True, **options)
    assert len({sample.token_ids for sample in samples}) == 3
    assert all(len(sample.token_ids) == len(sample.log_probs) > 0 for sample in samples)
    alone = await client.generate(model, "go on", **options)
    assert (alone.text, alone.token_ids) == (samples[0].text, ())
    with Client(client._transport.address) as blocking:
        again = await asyncio.to_thread(blocking.generate, model, "go on", num_samples=3, **options)
    assert [sample.text for sample in again] == [sample.text for sample in samples]


async def test_streamed_text_comes_before_the_answer_that_begins_with_it(client, model, monkeypatch):
    monkeypatch.setattr(progress, "INTERVAL_SECONDS", 0)
    items = [pb.GenerateItem(id=name, prompt=content("go on"), seed=7) for name in "ab"]
    sampling = generation_pb2.SamplingParams(temperature=1.0, max_new_tokens=200)
    request = pb.GenerateRequest(model=model, items=items, sampling=sampling, num_samples=2, stream_text=True)
    texts, answers, num_deltas = defaultdict(lambda: defaultdict(str)), {}, 0
    async for result in client.generate(request):
        key = result.id, result.sample
        assert key not in answers, "the answer is the last result of its sample"
        if result.HasField("delta"):
            num_deltas += 1
            texts[key][result.delta.part] += result.delta.text
        else:
            answers[key] = result.response.content
    assert len(answers) == 4
    assert num_deltas > 1
    for key, parts in texts.items():
        for number, text in parts.items():
            assert answers[key].parts[number].text.startswith(text)
    request.stream_text = False
    whole = {(result.id, result.sample): result.response.content async for result in client.generate(request)}
    assert whole == answers
