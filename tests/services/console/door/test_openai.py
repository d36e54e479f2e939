"""The `openai` package against the door, over all services in one process and the tiny world's model."""

import asyncio
import base64
import random
from pathlib import Path

import httpx2
import openai
import pytest

from examples.tinyworld.faults import prompt_pieces
from examples.tinyworld.language import random_task
from omnialign import media
from omnialign.client import AsyncClient
from omnialign.modeling.inputs import MediaBytes
from omnialign.v1 import content_pb2
from tests.processes import free_port
from tests.services.console.door.serving import omnialign_up

pytestmark = [pytest.mark.openai, pytest.mark.slow]
IMAGE, AUDIO, VIDEO = content_pb2.MODALITY_IMAGE, content_pb2.MODALITY_AUDIO, content_pb2.MODALITY_VIDEO


@pytest.fixture(scope="module")
def door_port():
    return free_port()


@pytest.fixture(scope="module")
def metrics_port():
    return free_port()


@pytest.fixture(scope="module")
def stack(tmp_path_factory, door_port, metrics_port):
    """The services and the door, which the services may ask."""
    allowed = f"http://127.0.0.1:{door_port}/v1"
    options = ("--metrics-port", str(metrics_port), "--console-port", str(door_port))
    root = tmp_path_factory.mktemp("stack")
    with omnialign_up(root, *options, OMNIALIGN_ENGINE_OPENAI_ENDPOINTS=allowed) as found:
        yield found


@pytest.fixture
def address(stack):
    return stack[0]


@pytest.fixture
async def client(stack):
    async with openai.AsyncOpenAI(base_url=stack[1], api_key="none", max_retries=0) as connected:
        yield connected


def task(subtask, seed=3):
    return prompt_pieces(random_task(random.Random(seed), subtask))


def as_part(piece):
    if isinstance(piece, str):
        return {"type": "text", "text": piece}
    data = base64.b64encode(piece.data).decode()
    if piece.modality == AUDIO:
        return {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}
    kind, mime_type = {IMAGE: ("image_url", "image/png"), VIDEO: ("video_url", "video/mp4")}[piece.modality]
    return {"type": kind, kind: {"url": f"data:{mime_type};base64,{data}"}}


async def ask(client, pieces, **options):
    messages = [{"role": "user", "content": [as_part(piece) for piece in pieces]}]
    options = {"model": "tiny", "temperature": 0, "max_tokens": 400, "seed": 1, **options}
    return await client.chat.completions.create(messages=messages, **options)


def decoded(part, kind):
    head, _, data = part[kind]["url"].partition(";base64,")
    return head.removeprefix("data:"), base64.b64decode(data)


async def test_models_are_listed_and_found(client):
    (found,) = [model async for model in client.models.list()]
    assert (found.id, found.object, found.owned_by) == ("tiny", "model", "projects/default")
    assert found.modalities == ["text", "image", "audio", "video"]
    assert (await client.models.retrieve("tiny/1")).id == "tiny/1"
    with pytest.raises(openai.NotFoundError):
        await client.models.retrieve("absent")


@pytest.mark.parametrize("subtask", ["t2t", "ti2t", "ta2t", "tv2t"])
async def test_text_pictures_sounds_and_videos_are_read_as_from_our_own_client(client, address, tmp_path, subtask):
    pieces = task(subtask)
    answer = await ask(client, pieces)
    (choice,) = answer.choices
    assert choice.message.content
    assert (choice.message.role, choice.finish_reason, answer.model) == ("assistant", "stop", "tiny/1")
    async with AsyncClient(address) as ours:
        prompt = [p if isinstance(p, str) else written(tmp_path, p) for p in pieces]
        direct = await ours.generate("tiny", prompt, max_new_tokens=400, seed=1)
    assert choice.message.content == direct.text
    assert answer.usage.prompt_tokens == direct.prompt_tokens
    assert answer.usage.completion_tokens == direct.completion_tokens
    assert answer.usage.total_tokens == direct.prompt_tokens + direct.completion_tokens


def written(folder: Path, piece: MediaBytes) -> Path:
    path = folder / "medium"
    path.write_bytes(piece.data)
    return path


async def test_pictures_come_out(client):
    message = (await ask(client, task("t2i"))).choices[0].message
    mime_type, data = decoded(message.images[0], "image_url")
    assert mime_type == "image/png"
    assert media.read_image(data).ndim == 3
    assert message.content is None
    assert message.parts[0]["image_url"]["url"].startswith("omnialign://media/")


async def test_text_and_picture_come_out_together_and_go_in_again(client):
    first = (await ask(client, task("ti2ti"))).choices[0].message
    assert first.content
    assert first.images
    said = {"role": "user", "content": [as_part(piece) for piece in task("ti2ti")]}
    more = {"role": "user", "content": "Say it again."}
    messages = [said, first.model_dump(), more]
    again = await client.chat.completions.create(model="tiny", messages=messages, max_tokens=5, seed=1)
    alone = await client.chat.completions.create(model="tiny", messages=[more], max_tokens=5, seed=1)
    assert again.usage.prompt_tokens > 2 * alone.usage.prompt_tokens


async def test_sounds_and_videos_come_out(client):
    message = (await ask(client, task("t2a"))).choices[0].message
    samples, rate = media.read_audio(base64.b64decode(message.audio.data))
    assert samples.size > rate / 10
    message = (await ask(client, task("t2v"))).choices[0].message
    mime_type, data = decoded(message.videos[0], "video_url")
    assert mime_type == "video/mp4"
    assert len(media.read_video(data)[0]) > 1


async def test_several_answers_differ_and_a_seed_repeats_them(client):
    options = {"temperature": 1.5, "n": 4, "seed": 11}
    first, again = [await ask(client, task("t2t"), **options) for _ in range(2)]
    texts = [choice.message.content for choice in first.choices]
    assert [choice.index for choice in first.choices] == [0, 1, 2, 3]
    assert len(set(texts)) > 1
    assert texts == [choice.message.content for choice in again.choices]
    alone = await ask(client, task("t2t"), temperature=1.5, seed=11)
    assert alone.choices[0].message.content == texts[0]
    other = await ask(client, task("t2t"), **options | {"seed": 12})
    assert texts != [choice.message.content for choice in other.choices]


async def test_an_answer_ends_at_a_stop_or_at_its_bound(client):
    whole = (await ask(client, task("t2t"))).choices[0].message.content
    word = whole.split()[2]
    cut = (await ask(client, task("t2t"), stop=word)).choices[0]
    assert cut.message.content == whole.partition(word)[0].rstrip()
    assert cut.finish_reason == "stop"
    short = await ask(client, task("t2t"), max_tokens=2)
    assert (short.choices[0].finish_reason, short.usage.completion_tokens) == ("length", 2)


async def test_a_stream_says_what_the_whole_answer_says(client):
    whole = await ask(client, task("t2t"), n=2, temperature=1.0)
    texts, ends, usage = {0: "", 1: ""}, {}, None
    stream = await ask(client, task("t2t"), n=2, temperature=1.0, stream=True, stream_options={"include_usage": True})
    async for event in stream:
        usage = event.usage or usage
        for choice in event.choices:
            texts[choice.index] += choice.delta.content or ""
            ends[choice.index] = choice.finish_reason
    assert texts == {choice.index: choice.message.content for choice in whole.choices}
    assert ends == {0: "stop", 1: "stop"}
    assert usage == whole.usage


async def test_log_probabilities_are_those_of_the_written_tokens(client):
    answer = await ask(client, task("t2t"), logprobs=True)
    tokens = answer.choices[0].logprobs.content
    assert len(tokens) == answer.usage.completion_tokens
    assert all(token.logprob <= 0 and token.token.startswith("token_id:") for token in tokens)


async def test_completions_answer_texts(client):
    prompts = [task("t2t", seed)[0] for seed in (3, 4)]
    answer = await client.completions.create(model="tiny", prompt=prompts, max_tokens=50, temperature=0)
    chats = [(await ask(client, (prompt,), max_tokens=50)).choices[0].message.content for prompt in prompts]
    assert [choice.text for choice in answer.choices] == chats


async def test_errors_are_those_of_the_package(client):
    with pytest.raises(openai.NotFoundError) as missing:
        await ask(client, ("Hello",), model="absent")
    assert missing.value.code == "MODEL_VERSION_NOT_FOUND"
    with pytest.raises(openai.BadRequestError) as foreign:
        part = {"type": "image_url", "image_url": {"url": "https://example.org/x.png"}}
        await client.chat.completions.create(model="tiny", messages=[{"role": "user", "content": [part]}])
    assert (foreign.value.code, foreign.value.param) == ("MEDIA_URL_FOREIGN", "messages[0].content[0].image_url.url")
    with pytest.raises(openai.BadRequestError) as broken:
        await ask(client, (MediaBytes(IMAGE, b"<svg onload=alert(1)>"),))
    assert (broken.value.code, broken.value.param) == ("MEDIA_TYPE_UNSUPPORTED", "messages[0].content[0].image_url.url")
    with pytest.raises(openai.BadRequestError) as unknown:
        await ask(client, ("Hello",), extra_body={"mirostat": 2})
    assert (unknown.value.code, unknown.value.param) == ("PARAMETER_UNKNOWN", "mirostat")
    with pytest.raises(openai.BadRequestError) as schema:
        await ask(client, ("Hello",), response_format={"type": "json_object"})
    assert schema.value.code == "JSON_SCHEMA_UNSUPPORTED"
    with pytest.raises(openai.BadRequestError) as system:
        messages = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hello"}]
        await client.chat.completions.create(model="tiny", messages=messages)
    assert system.value.code == "ROLE_UNSUPPORTED"


async def test_our_own_client_asks_through_the_door_and_gets_the_same(client, address, door_port, tmp_path):
    pieces = task("ti2t")
    prompt = [p if isinstance(p, str) else written(tmp_path, p) for p in pieces]
    through = f"openai+http://127.0.0.1:{door_port}/v1#tiny"
    async with AsyncClient(address) as ours:
        for options in ({"temperature": 0.0}, {"temperature": 1.0, "num_samples": 3}):
            both = [await ours.generate(m, prompt, max_new_tokens=60, seed=5, **options) for m in ("tiny", through)]
            found = [[a.text for a in (made if isinstance(made, list) else [made])] for made in both]
            assert found[0] == found[1]


async def test_a_caller_who_hangs_up_frees_the_engine(client, metrics_port):
    async def measured(name):
        async with httpx2.AsyncClient() as web:
            page = (await web.get(f"http://127.0.0.1:{metrics_port}/metrics")).text
        (line,) = [line for line in page.splitlines() if line.startswith(f"omnialign_engine_{name}")]
        return float(line.split()[1])

    before = await measured('requests_total{outcome="cancelled"}')
    asking = asyncio.create_task(ask(client, task("t2v"), n=64))
    while not await measured("rows_running"):
        assert not asking.done()
    asking.cancel()
    # Behind whatever the engine still does: it would be all 64 videos.
    await ask(client, task("t2t"), max_tokens=1)
    assert await measured('requests_total{outcome="cancelled"}') > before
