"""Prompts that continue a conversation, and answers that must match a schema, on our engine and behind an endpoint."""

import json
from pathlib import Path

import numpy as np
import pytest

from omnialign import media
from omnialign.content import content
from omnialign.errors import InvalidArgument, NotFound, from_status
from omnialign.modeling.adapters import load_adapter
from omnialign.modeling.inputs import Turn
from omnialign.v1 import content_pb2, generation_pb2
from omnialign.v1 import refinement_service_pb2 as pb
from tests.services.inference import model_factory
from tests.services.inference.service_stack import serve_stack
from tests.services.inference.stub_endpoint import obeying, serve_stub

SCHEMA = {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return model_factory.random_model(tmp_path_factory.mktemp("models") / "random")


@pytest.fixture
async def stub():
    async with serve_stub() as running:
        yield running


@pytest.fixture
async def client(tmp_path, stub):
    async with serve_stack(tmp_path / "data", openai_endpoints=(stub.base_url,)) as stack:
        yield stack.client


def earlier(*messages):
    return [content_pb2.EarlierMessage(role=role, content=message) for role, message in messages]


async def generate(client, model, prompt, history=(), **fields):
    item = pb.GenerateItem(id="0", prompt=prompt, history=history, seed=1)
    sampling = generation_pb2.SamplingParams(max_new_tokens=4)
    request = pb.GenerateRequest(model=model, items=[item], sampling=sampling, **fields)
    (result,) = [result async for result in client.generate(request)]
    return result


async def test_a_model_reads_what_came_before_the_prompt(client, model):
    history = earlier((content_pb2.ROLE_USER, content("what is red")), (content_pb2.ROLE_ASSISTANT, content("a ring")))
    found = await generate(client, model, content("go on"), history)
    adapter = load_adapter(Path(model.removeprefix("file://")))
    turns = [Turn("user", ("what is red",)), Turn("assistant", ("a ring",)), Turn("user", ("go on",))]
    assert found.response.generation.prompt_tokens == len(adapter.encode(turns).ids)


async def test_media_of_earlier_messages_are_fetched_too(client, model):
    lost = content_pb2.Media(modality=content_pb2.MODALITY_IMAGE, mime_type="image/png", sha256="0" * 64)
    found = await generate(client, model, content("go on"), earlier((content_pb2.ROLE_USER, content(lost))))
    assert from_status(found.error).reason == "MEDIA_NOT_FOUND"


async def test_a_model_without_a_place_for_the_system_refuses_its_message(client, model):
    found = await generate(client, model, content("go on"), earlier((content_pb2.ROLE_SYSTEM, content("Be brief."))))
    assert from_status(found.error).reason == "ROLE_UNSUPPORTED"


async def test_an_endpoint_gets_all_messages_with_their_roles_and_the_schema(client, stub):
    stub.acts.append(obeying("lake"))
    history = earlier((content_pb2.ROLE_SYSTEM, content("Be brief.")), (content_pb2.ROLE_ASSISTANT, content("Yes?")))
    found = await generate(client, stub.model(), content("Name one."), history, json_schema=json.dumps(SCHEMA))
    assert found.response.content == content('{"name": "lake"}')
    (asked,) = stub.asked
    assert [(m["role"], m["content"]) for m in asked["messages"]] == [
        ("system", "Be brief."),
        ("assistant", "Yes?"),
        ("user", "Name one."),
    ]
    assert asked["response_format"]["json_schema"]["schema"] == SCHEMA


async def test_a_schema_that_nothing_enforces_is_refused_instead_of_ignored(client, model, stub):
    for name in (model, stub.model(adapter=model)):
        found = await generate(client, name, content("Name one."), json_schema=json.dumps(SCHEMA))
        assert from_status(found.error).reason == "JSON_SCHEMA_UNSUPPORTED"
    assert not stub.asked
    with pytest.raises(InvalidArgument) as caught:
        await generate(client, model, content("Name one."), json_schema="[]")
    assert caught.value.reason == "JSON_SCHEMA_INVALID"


async def test_a_stored_medium_is_found_by_its_digest_without_its_bytes(client):
    stored = await client.upload_media(
        media.write_audio(np.zeros(1600, dtype=np.float32), 16_000), modality=content_pb2.MODALITY_AUDIO
    )
    assert await client.find_media(stored.sha256) == stored
    with pytest.raises(NotFound):
        await client.find_media("0" * 64)
