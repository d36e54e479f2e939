"""The OpenAI-compatible engine against a real `vllm serve`: chats and token ids with media, and a server that dies."""

import asyncio
import json
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import numpy as np
import pytest
import pytest_asyncio

from omnialign.errors import NotFound, Unavailable
from omnialign.media import read_image, write_image
from omnialign.modeling.adapters import load_adapter
from omnialign.modeling.inputs import MediaBytes, Turn
from omnialign.modeling.prompts import render_response
from omnialign.v1 import content_pb2, generation_pb2
from services.inference.config import EngineConfig
from services.inference.constrained_decoding import spans_to_config
from services.inference.engine import EngineRequest
from services.inference.openai.engine import open_openai_engine
from tests.model_factory.families import FAMILIES
from tests.vllm.conftest import TINY_WORLD
from tests.vllm.serving import serve

pytestmark = [pytest.mark.asyncio(loop_scope="module"), pytest.mark.timeout(600)]
FOLDER = Path(TINY_WORLD.removeprefix("file://"))


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def tiny(tmp_path_factory):
    """The tiny world's token model, whose media the server keeps well-formed."""
    spans = json.dumps(spans_to_config(load_adapter(FOLDER).media_spans))
    processor = (
        "--logits-processors",
        "services.inference.vllm.logits_processor:SpanProcessor",
        "--additional-config",
        spans,
    )
    options = ("--skip-tokenizer-init", *processor)
    async with serve(FOLDER, log=tmp_path_factory.mktemp("tiny") / "log", options=options) as served:
        yield served


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def seeing(tmp_path_factory):
    """A random model of a family that reads images."""
    folder = FAMILIES["qwen2_5_vl"].build(tmp_path_factory.mktemp("families") / "qwen2_5_vl")
    async with serve(folder, log=folder.parent / "log", options=("--skip-mm-profiling",)) as served:
        yield served


@asynccontextmanager
async def opened(served, **settings):
    async with open_openai_engine(EngineConfig(openai_endpoints=(served.base_url,), **settings)) as engine:
        yield engine


def requests(model, *prompts, **sampling):
    params = generation_pb2.SamplingParams(**sampling)
    return [EngineRequest(str(i), model, render_response((p,)).turns, params, seed=i) for i, p in enumerate(prompts)]


async def ask(engine, asked):
    async with aclosing(engine.generate(asked)) as results:
        found = {result.id: result async for result in results}
    return [found[request.id] for request in asked]


async def test_a_token_model_writes_media_through_the_server(tiny):
    prompts = ["Draw a red circle.", "Play a high tone.", "Show a blue square moving right.", "What is red?"] * 4
    async with opened(tiny) as engine:
        model = tiny.model(adapter=TINY_WORLD)
        await engine.load(model)
        results = await ask(engine, requests(model, *prompts, temperature=1.0, max_new_tokens=300))
        again = await ask(engine, requests(model, *prompts, temperature=1.0, max_new_tokens=300))
    assert [result.error for result in results] == [None] * 16
    made = {piece.modality for result in results for piece in result.pieces if isinstance(piece, MediaBytes)}
    assert made == {content_pb2.MODALITY_IMAGE, content_pb2.MODALITY_AUDIO, content_pb2.MODALITY_VIDEO}
    assert {result.info.finish_reason for result in results} == {generation_pb2.FINISH_REASON_END}
    assert [result.pieces for result in results] == [result.pieces for result in again]  # the seeds are heeded


async def test_a_token_model_reads_a_picture_that_it_drew(tiny):
    model = tiny.model(adapter=TINY_WORLD)
    async with opened(tiny) as engine:
        (drawn,) = await ask(engine, requests(model, "Draw a red circle.", max_new_tokens=300))
        (picture,) = drawn.pieces
        assert read_image(picture.data).ndim == 3
        params = generation_pb2.SamplingParams(max_new_tokens=40)
        turns = render_response(("What colour is the shape?", picture)).turns
        (told,) = await ask(engine, [EngineRequest("0", model, turns, params)])
    assert told.error is None
    assert told.info.prompt_tokens == len(load_adapter(FOLDER).encode(turns).ids)


async def test_the_bound_gives_way_and_a_long_prompt_fails_alone(tiny):
    model = tiny.model(adapter=TINY_WORLD)
    async with opened(tiny) as engine:
        short, long = await ask(engine, requests(model, "What is red?", "word " * 2000, max_new_tokens=5000))
    assert short.error is None
    assert long.error.reason == "PROMPT_TOO_LONG"


async def test_a_name_that_the_server_does_not_know_is_not_found(tiny):
    async with opened(tiny) as engine:
        with pytest.raises(NotFound):
            await ask(engine, requests(f"openai+{tiny.base_url}#other?adapter={TINY_WORLD}", "What is red?"))


async def test_a_chat_reads_text_and_a_picture(seeing):
    picture = MediaBytes(content_pb2.MODALITY_IMAGE, write_image(np.full((56, 84, 3), 200, np.uint8)))
    params = generation_pb2.SamplingParams(max_new_tokens=12)
    bare, with_picture = (EngineRequest(str(i), seeing.model(), (Turn("user", pieces),), params)
                          for i, pieces in enumerate([("Describe it.",), ("Describe it.", picture)]))  # fmt: skip
    async with opened(seeing) as engine:
        await engine.load(seeing.model())
        without, seen = await ask(engine, [bare, with_picture])
    assert (without.error, seen.error) == (None, None)
    assert seen.info.prompt_tokens > without.info.prompt_tokens
    assert 0 < seen.info.completion_tokens <= 12


async def test_a_schema_binds_what_a_chat_writes(seeing):
    schema = '{"type": "object", "properties": {"a": {"enum": ["x", "y"]}}, "required": ["a"]}'
    params = generation_pb2.SamplingParams(max_new_tokens=60)
    asked = EngineRequest("0", seeing.model(), (Turn("user", ("Say a.",)),), params, json_schema=schema)
    async with opened(seeing) as engine:
        (result,) = await ask(engine, [asked])
    assert json.loads(result.pieces[0])["a"] in ("x", "y")


async def test_a_server_killed_in_the_middle_and_started_again_loses_nothing(tiny):
    """The last test of this server: it ends with one that does not come back."""
    prompts = ["Show a blue square moving right."] * 200
    asked = requests(tiny.model(adapter=TINY_WORLD), *prompts, temperature=1.0, max_new_tokens=300)
    patience = {"openai_retry_seconds": 240.0, "openai_max_retries": 50}
    async with opened(tiny, **patience) as engine, aclosing(engine.generate(asked)) as results:
        found = [await anext(results)]
        await tiny.kill()
        starting = asyncio.create_task(tiny.start())
        found += [result async for result in results]
        await starting
    assert sorted(int(result.id) for result in found) == list(range(200))
    assert {result.error for result in found} == {None}
    async with opened(tiny, openai_retry_seconds=1.0) as engine:
        with pytest.raises(Unavailable, match="gave no answer") as caught:
            async with aclosing(engine.generate(asked)) as results:
                await anext(results)
                await tiny.kill()
                _ = [result async for result in results]
    assert caught.value.metadata["endpoint"] == tiny.base_url
