"""The door over real servers with null models: what is asked, what comes back, and every kind of failure."""

import asyncio
import base64
import contextlib
import hashlib
import json

import aiohttp
import pytest
from prometheus_client import CollectorRegistry

from benchmarks.null_services import Behaviour, NullRefinement
from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.errors import InvalidArgument, ResourceExhausted
from omnialign.v1 import content_pb2, refinement_service_pb2, refinement_service_pb2_grpc
from services.console.__main__ import opened
from services.console.config import ConsoleConfig
from services.console.door import DoorSettings
from services.data import __main__ as data
from services.data.config import DataConfig
from services.runtime.auth.authenticator import AuthConfig
from services.runtime.config import ServerConfig
from services.runtime.connections import ClientFactory
from services.runtime.errors import RETRY_AFTER
from services.runtime.server import Server
from tests.services.console.door.serving import serve_door

IMAGE = content_pb2.MODALITY_IMAGE
PIXEL = bytes.fromhex(
    "89504e470d0a1a0a0000000d49484452000000010000000108020000009077"
    "53de0000000c49444154789c63f8ffff3f0005fe02fe0def46b80000000049454e44ae426082"
)
PICTURE = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{base64.b64encode(PIXEL).decode()}"}}
MODEL = "projects/default/models/base/versions/1"


class Model(NullRefinement):
    """A null model that keeps the requests, streams `deltas` before its answer, and notes calls that were cancelled."""

    def __init__(self, behaviour):
        super().__init__(behaviour)
        self.asked, self.deltas, self.cancelled, self.hangs = [], [], asyncio.Event(), False

    async def Generate(self, request, context):  # noqa: N802
        self.asked.append(request)
        try:
            async for result in super().Generate(request, context):
                for part, text in self.deltas if request.stream_text else ():
                    delta = refinement_service_pb2.TextDelta(part=part, text=text)
                    yield refinement_service_pb2.GenerateResponse(id=result.id, sample=result.sample, delta=delta)
                yield result
                if self.hangs:
                    await asyncio.Event().wait()
        except asyncio.CancelledError:
            self.cancelled.set()
            raise


class Services:
    """The data service and a null model on one port, and a client of theirs."""

    def __init__(self, server):
        self.behaviour, self.server = Behaviour(), server
        self.model = Model(self.behaviour)

    async def ask(self, url, method="POST", body=None, headers=None, **options):
        """(status, headers, JSON or text) of an answer of the door."""
        async with aiohttp.ClientSession() as session:
            options |= {"json": body} if body is not None else {}
            async with session.request(method, url, headers=headers, **options) as answer:
                text = await answer.text()
                is_json = answer.content_type == "application/json"
                return answer.status, answer.headers, json.loads(text) if is_json else text


@contextlib.asynccontextmanager
async def serve(root, auth=None):
    server = Server(ServerConfig(), name="data", auth=auth)
    async with data.wire(server, DataConfig(root=root)):
        services = Services(server)
        add = refinement_service_pb2_grpc.add_RefinementServiceServicer_to_server
        server.add(add, services.model, "omnialign.v1.RefinementService")
        await server.start()
        server.set_serving()
        try:
            yield services
        finally:
            for event in services.behaviour.holds.values():
                event.set()
            await server.stop(0)


@pytest.fixture
async def services(tmp_path):
    async with serve(tmp_path) as running:
        yield running


@pytest.fixture
async def door(services):
    async with serve_door(services.server.address) as url:
        yield url


@pytest.fixture
async def client(services):
    async with AsyncClient(services.server.address) as connected:
        yield connected


def chat(*content, model=MODEL, **fields):
    return {"model": model, "messages": [{"role": "user", "content": list(content) or "Hello"}], **fields}


async def test_a_chat_becomes_a_call_of_generate_and_its_answer_a_message(services, door):
    services.behaviour.replies = lambda model, item: content("Hi ", "there")
    messages = [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": [{"type": "text", "text": "Look"}, PICTURE]},
    ]
    body = {"model": MODEL, "messages": messages, "seed": 7, "temperature": 0, "max_tokens": 5, "stop": "x", "n": 2}
    status, headers, answer = await services.ask(f"{door}/chat/completions", body=body)
    assert status == 200, answer
    (request,) = services.model.asked
    (item,) = request.items
    assert (request.model, request.num_samples, item.seed) == (MODEL, 2, 7)
    assert (request.sampling.max_new_tokens, list(request.sampling.stop)) == (5, ["x"])
    roles = [content_pb2.Role.Name(message.role) for message in item.history]
    assert roles == ["ROLE_SYSTEM", "ROLE_USER", "ROLE_ASSISTANT"]
    assert [message.content.parts[0].text for message in item.history] == ["Be brief.", "Hello", "Yes?"]
    assert item.prompt.parts[0].text == "Look"
    assert item.prompt.parts[1].media.sha256 == hashlib.sha256(PIXEL).hexdigest()
    assert item.prompt.parts[1].media.mime_type == "image/png"
    assert [choice["index"] for choice in answer["choices"]] == [0, 1]
    choice = answer["choices"][0]
    assert choice["message"] == {"role": "assistant", "content": "Hi  there", "refusal": None}
    assert (choice["finish_reason"], choice["logprobs"]) == ("stop", None)
    assert answer["usage"] == {"prompt_tokens": 0, "completion_tokens": 14, "total_tokens": 14}
    assert (answer["object"], answer["model"]) == ("chat.completion", "base/1")
    assert headers["x-request-id"]


async def test_media_of_an_answer_come_beside_its_text_and_can_be_sent_back(services, door, client):
    stored = await client.upload_media(PIXEL, modality=IMAGE)
    services.behaviour.replies = lambda model, item: content(stored, "A pixel.")
    _, _, answer = await services.ask(f"{door}/chat/completions", body=chat())
    message = answer["choices"][0]["message"]
    assert message["content"] == "A pixel."
    assert message["images"] == [PICTURE]
    reference = {"type": "image_url", "image_url": {"url": f"omnialign://media/{stored.sha256}"}}
    assert message["parts"] == [reference, {"type": "text", "text": "A pixel."}]
    body = {"model": MODEL, "messages": [*chat()["messages"], message, *chat(reference)["messages"]]}
    status, _, again = await services.ask(f"{door}/chat/completions", body=body)
    assert status == 200, again
    item = services.model.asked[-1].items[0]
    assert item.history[1].content == content(stored, "A pixel.")
    assert item.prompt == content(stored)


async def test_media_that_the_caller_does_not_take_are_an_error_and_not_dropped(services, door, client):
    stored = await client.upload_media(PIXEL, modality=IMAGE)
    services.behaviour.replies = lambda model, item: content(stored)
    status, _, answer = await services.ask(f"{door}/chat/completions", body=chat(modalities=["text"]))
    assert (status, answer["error"]["code"]) == (400, "ANSWER_MODALITY_UNWANTED")
    status, _, answer = await services.ask(f"{door}/completions", body={"model": MODEL, "prompt": "draw"})
    assert (status, answer["error"]["code"]) == (400, "ANSWER_MODALITY_UNWANTED")


async def test_a_stream_has_role_content_end_counts_and_a_last_word(services, door):
    services.behaviour.replies = lambda model, item: content("Hi")
    body = chat(stream=True, stream_options={"include_usage": True})
    status, headers, text = await services.ask(f"{door}/chat/completions", body=body)
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    found = events_of(text)
    assert [event["choices"][0]["delta"] if event["choices"] else None for event in found] == [
        {"role": "assistant", "content": ""},
        {"content": "Hi"},
        {},
        None,
    ]
    assert [event["choices"][0]["finish_reason"] for event in found[:3]] == [None, None, "stop"]
    assert [event["usage"] for event in found[:3]] == [None] * 3
    assert found[3]["usage"]["completion_tokens"] == 7
    assert {(event["object"], event["model"]) for event in found} == {("chat.completion.chunk", "base/1")}
    assert len({event["id"] for event in found}) == 1
    _, _, text = await services.ask(f"{door}/chat/completions", body=chat(stream=True))
    assert '"usage"' not in text


def events_of(text):
    """The events of a whole stream."""
    *events, last, rest = text.split("\n\n")
    assert (last, rest) == ("data: [DONE]", "")
    return [json.loads(event.removeprefix("data: ")) for event in events]


async def test_text_is_streamed_as_it_is_written(services, door, client):
    stored = await client.upload_media(PIXEL, modality=IMAGE)
    services.behaviour.replies = lambda model, item: content("Hi there", stored, "A pixel.")
    services.model.deltas = [(0, "Hi"), (0, " there"), (2, "A")]
    _, _, text = await services.ask(f"{door}/chat/completions", body=chat(stream=True, n=2))
    found = [event["choices"][0] for event in events_of(text)]
    for index in (0, 1):
        deltas = [choice["delta"] for choice in found if choice["index"] == index]
        assert deltas[0] == {"role": "assistant", "content": ""}
        assert [delta.get("content") for delta in deltas[1:]] == ["Hi", " there", " A", " pixel.", None]
        assert deltas[4]["images"] == [PICTURE]
    body = {"model": MODEL, "prompt": ["a", "b"], "stream": True}
    services.behaviour.replies = lambda model, item: content("Hi there")
    services.model.deltas = [(0, "Hi")]
    _, _, text = await services.ask(f"{door}/completions", body=body)
    found = [event["choices"][0] for event in events_of(text)]
    assert sorted((choice["index"], choice["text"], choice["finish_reason"]) for choice in found) == [
        (0, " there", "stop"),
        (0, "Hi", None),
        (1, " there", "stop"),
        (1, "Hi", None),
    ]


async def test_an_answer_other_than_what_was_streamed_of_it_is_an_error_and_not_sent(services, door):
    services.behaviour.replies = lambda model, item: content("Ho")
    services.model.deltas = [(0, "Hi")]
    _, _, text = await services.ask(f"{door}/chat/completions", body=chat(stream=True))
    last = json.loads(text.strip().split("\n\n")[-1].removeprefix("data: "))
    assert last["error"]["code"] == "STREAM_DIVERGED"


async def test_completions_answer_each_of_several_prompts(services, door):
    services.behaviour.replies = lambda model, item: content(f"{item.prompt.parts[0].text}!")
    body = {"model": MODEL, "prompt": ["a", "b"], "n": 2}
    status, _, answer = await services.ask(f"{door}/completions", body=body)
    assert status == 200, answer
    found = [(choice["index"], choice["text"], choice["finish_reason"]) for choice in answer["choices"]]
    assert found == [(0, "a!", "stop"), (1, "a!", "stop"), (2, "b!", "stop"), (3, "b!", "stop")]
    assert answer["object"] == "text_completion"
    _, _, text = await services.ask(f"{door}/completions", body={**body, "stream": True})
    assert text.count("data: {") == 4
    assert text.endswith("data: [DONE]\n\n")
    status, _, answer = await services.ask(f"{door}/completions", body={"model": MODEL, "prompt": [1, 2]})
    assert (status, answer["error"]["param"]) == (400, "prompt")


async def test_models_are_listed_once_by_names_that_requests_take(services, door, client, tmp_path):
    for number in (1, 2):
        await client.register_model("base", model_folder(tmp_path / f"base-{number}", number), display_name="Base")
    await client.register_model("other", model_folder(tmp_path / "other", 3))
    _, _, answer = await services.ask(f"{door}/models", "GET")
    assert [(m["id"], m["object"], m["version"][-1]) for m in answer["data"]] == [
        ("other", "model", "1"),
        ("base", "model", "2"),
    ]
    assert answer["data"][1]["owned_by"] == "projects/default"
    for name, version in (("base", 2), ("base/1", 1), ("projects/default/models/base/versions/1", 1)):
        _, _, found = await services.ask(f"{door}/models/{name}", "GET")
        assert (found["id"], found["version"]) == (name, f"projects/default/models/base/versions/{version}")
        status, _, answer = await services.ask(f"{door}/chat/completions", body=chat(model=name))
        assert (status, answer["model"]) == (200, f"base/{version}")
    status, _, answer = await services.ask(f"{door}/models/absent", "GET")
    assert (status, answer["error"]["type"]) == (404, "not_found_error")
    status, _, answer = await services.ask(f"{door}/chat/completions", body=chat(model="absent"))
    assert (status, answer["error"]["code"]) == (404, "MODEL_VERSION_NOT_FOUND")


def model_folder(folder, number):
    import numpy as np
    from safetensors.numpy import save_file

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llama"}))
    save_file({"weight": np.full((2, 2), number, dtype=np.float32)}, folder / "model.safetensors")
    return folder.as_uri()


async def test_a_project_is_named_by_a_header(services, door, client, tmp_path):
    await client.register_model("base", model_folder(tmp_path / "base", 1))
    _, _, answer = await services.ask(f"{door}/models", "GET", headers={"OpenAI-Project": "other"})
    assert answer["data"] == []
    status, _, answer = await services.ask(f"{door}/models", "GET", headers={"OpenAI-Project": "../x"})
    assert (status, answer["error"]["code"]) == (400, "PROJECT_INVALID")


@pytest.mark.parametrize(
    ("options", "status", "code"),
    [
        ({"data": b"{}", "headers": {"Content-Type": "text/plain"}}, 415, "CONTENT_TYPE_INVALID"),
        ({"data": b"{", "headers": {"Content-Type": "application/json"}}, 400, "JSON_INVALID"),
        ({"data": b"[1]", "headers": {"Content-Type": "application/json"}}, 400, "JSON_INVALID"),
        ({"data": b'{"n": NaN}', "headers": {"Content-Type": "application/json"}}, 400, "JSON_INVALID"),
        ({"data": b"[" * 100_000, "headers": {"Content-Type": "application/json"}}, 400, "JSON_INVALID"),
        ({"body": chat(mirostat=2)}, 400, "PARAMETER_UNKNOWN"),
        ({"body": chat(PICTURE | {"image_url": {"url": "http://127.0.0.1/x.png"}})}, 400, "MEDIA_URL_FOREIGN"),
        ({"body": chat({"type": "video_url", "video_url": PICTURE["image_url"]})}, 400, "MEDIA_TYPE_MISMATCH"),
        ({"body": chat(PICTURE | {"image_url": {"url": f"omnialign://media/{'0' * 64}"}})}, 404, "MEDIA_NOT_FOUND"),
        ({"body": chat(), "headers": {"Authorization": "Basic eA=="}}, 401, "TOKEN_MISSING"),
    ],
)
async def test_bad_requests_are_errors_in_openais_form(services, door, options, status, code):
    found, _, answer = await services.ask(f"{door}/chat/completions", **options)
    assert (found, answer["error"]["code"]) == (status, code)
    assert set(answer["error"]) == {"message", "type", "param", "code"}
    assert services.model.asked == []


async def test_what_is_not_there_is_an_error_too(services, door):
    for method, path in (("POST", "embeddings"), ("GET", "chat/completions"), ("DELETE", "models/base")):
        status, _, answer = await services.ask(f"{door}/{path}", method)
        assert (status, answer["error"]["code"]) == (404, "ROUTE_NOT_FOUND")


async def test_a_body_beyond_the_bound_is_refused_announced_or_not(services):
    async def endless():
        for _ in range(100):
            yield b" " * 100

    headers = {"Content-Type": "application/json"}
    async with serve_door(services.server.address, DoorSettings(max_body_bytes=1000)) as url:
        for body in (b" " * 2000, endless()):
            status, _, answer = await services.ask(f"{url}/chat/completions", data=body, headers=headers)
            assert (status, answer["error"]["code"]) == (413, "BODY_TOO_LARGE")


async def test_an_error_of_an_answer_has_its_status_before_a_stream_begins(services, door):
    services.behaviour.faults = lambda rpc, item: InvalidArgument("too long", reason="PROMPT_TOO_LONG")
    for stream in (False, True):
        status, _, answer = await services.ask(f"{door}/chat/completions", body=chat(stream=stream))
        assert (status, answer["error"]["code"]) == (400, "PROMPT_TOO_LONG")


async def test_an_error_after_the_first_answer_is_the_last_event(services, door):
    failure = ResourceExhausted("full", reason="QUEUE_FULL", metadata={RETRY_AFTER: "2.5"})
    services.behaviour.faults = lambda rpc, item: failure if item == "1" else None
    body = {"model": MODEL, "prompt": ["a", "b"], "stream": True}
    status, _, text = await services.ask(f"{door}/completions", body=body)
    first, last, _ = text.split("\n\n")
    assert status == 200
    assert '"text"' in first
    assert json.loads(last.removeprefix("data: "))["error"]["code"] == "QUEUE_FULL"
    status, headers, answer = await services.ask(f"{door}/completions", body=body | {"stream": False})
    assert (status, headers["retry-after"], answer["error"]["type"]) == (429, "3", "rate_limit_error")


@pytest.mark.parametrize("stream", [False, True])
async def test_a_caller_who_hangs_up_ends_the_call(services, door, stream):
    entered, _ = services.behaviour.hold("Generate")
    asking = asyncio.create_task(services.ask(f"{door}/chat/completions", body=chat(stream=stream)))
    await entered.wait()
    asking.cancel()
    await asyncio.wait_for(services.model.cancelled.wait(), 10)


async def test_a_caller_who_hangs_up_in_the_middle_of_a_stream_ends_the_call(services, door):
    services.model.hangs = True
    async with aiohttp.ClientSession() as session:
        answer = await session.post(f"{door}/chat/completions", json=chat(stream=True))
        assert (await answer.content.readline()).startswith(b"data: {")
    await asyncio.wait_for(services.model.cancelled.wait(), 10)


async def test_an_answer_that_takes_too_long_is_given_up(services):
    services.behaviour.hold("Generate")
    async with serve_door(services.server.address, DoorSettings(deadline_seconds=0.2)) as url:
        status, _, answer = await services.ask(f"{url}/chat/completions", body=chat())
    assert (status, answer["error"]["type"]) == (504, "server_error")


async def test_services_that_are_away_are_unavailable_for_now(services):
    async with serve_door("127.0.0.1:1") as url:
        status, headers, _ = await services.ask(f"{url}/models", "GET")
    assert (status, headers["retry-after"]) == (503, "1")


async def test_keys_are_tokens_with_their_roles_and_rates(tmp_path):
    def entry(name, **roles):
        return {"name": name, "sha256": hashlib.sha256(name.encode()).hexdigest(), "roles": roles}

    tokens = tmp_path / "tokens.yaml"
    tokens.write_text(json.dumps({"tokens": [entry("ann", default="submitter"), entry("bob", default="reader")]}))
    auth = AuthConfig(tokens_file=tokens, rate_per_second=0.01, rate_burst=3)
    async with serve(tmp_path / "data", auth) as services, serve_door(services.server.address) as url:

        async def ask(token, body):
            headers = {"Authorization": f"Bearer {token}"} if token else {}
            status, headers, answer = await services.ask(f"{url}/chat/completions", body=body, headers=headers)
            return status, headers, answer.get("error", {}).get("code")

        assert (await ask("", chat()))[::2] == (401, "TOKEN_MISSING")
        status, headers, code = await ask("eve", chat())
        assert (status, headers["www-authenticate"], code) == (401, "Bearer", "TOKEN_UNKNOWN")
        assert (await ask("bob", chat()))[::2] == (403, "ROLE_TOO_SMALL")
        elsewhere = chat(model=MODEL.replace("default", "other"))
        assert (await ask("ann", elsewhere))[0] == 404
        seen = [(await ask("ann", chat())) for _ in range(4)]
        assert [status for status, _, _ in seen][:1] == [200]
        status, headers, code = seen[-1]
        assert (status, code) == (429, "RATE_LIMITED")
        assert int(headers["retry-after"]) > 1


async def test_the_console_serves_the_door_to_programs_and_to_its_own_pages_alone(services):
    config, registry = ConsoleConfig(gateway_address=services.server.address), CollectorRegistry()
    large = [{"type": "text", "text": "x" * (2 << 20)}]  # more than the console takes of a form
    async with opened(config, ServerConfig(), clients=ClientFactory(), registry=registry) as web:
        url = f"{web.address}/v1/chat/completions"
        status, headers, answer = await services.ask(url, body=chat(*large))
        assert (status, answer["model"]) == (200, "base/1")
        assert "set-cookie" not in headers
        assert headers["cache-control"] == "no-store"
        status, _, _ = await services.ask(url, body=chat(), headers={"Origin": "https://example.org"})
        assert status == 403
        status, _, answer = await services.ask(f"{web.address}/v1/files", "GET")
        assert (status, answer["error"]["code"]) == (404, "ROUTE_NOT_FOUND")
    labels = {"route": "/v1/chat/completions", "method": "POST", "status": "200"}
    assert registry.get_sample_value("omnialign_console_requests_total", labels) == 1
