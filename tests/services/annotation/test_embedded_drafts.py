"""Draft jobs on the whole stack: a chat endpoint that is held to the form, and a small model that is not."""

import asyncio
import contextlib
import json
from pathlib import Path

import pytest
from aiohttp import web

from examples.tinyworld import dataset, recipe
from omnialign.client import AsyncClient
from omnialign.v1.annotation_service_pb2 import Campaign, DraftSpec
from services.embedded import embedded
from tests.services.annotation.conftest import pair
from tests.services.annotation.drafting import form
from tests.services.inference.stub_endpoint import chat, serve_stub


async def annotator(request: web.Request) -> web.Response:
    """Prefers the first answer of the record, in the schema that it is asked for."""
    asked = json.loads(await request.read())
    schema = asked["response_format"]["json_schema"]["schema"]
    text = asked["messages"][-1]["content"]
    text = text if isinstance(text, str) else " ".join(part.get("text", "") for part in text)
    is_swapped = text.index('"answer 2"') < text.index('"answer 1"')
    answer = form(better=2 if is_swapped else 1, scores=(1, 3) if is_swapped else (3, 1))
    assert list(answer) == list(schema["properties"])
    return web.json_response(chat(json.dumps(answer)))


async def drafted(client: AsyncClient, job_id: str, spec: DraftSpec):
    job = await client.create_draft_job(job_id, spec)
    async for event in client.watch_draft_job(job.name):
        job = event.draft_job
    return job


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_an_endpoint_is_held_to_the_form_and_a_model_that_cannot_write_it_abstains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes = dataset.Sizes(train=4, prompts=0, validation=0, test=0)
    await asyncio.to_thread(dataset.write, tmp_path / "source", seed=1, sizes=sizes)
    async with contextlib.AsyncExitStack() as opened:
        stub = await opened.enter_async_context(serve_stub(annotator))
        monkeypatch.setenv("OMNIALIGN_ENGINE_OPENAI_ENDPOINTS", stub.base_url)
        stack = await opened.enter_async_context(embedded(tmp_path / "root"))
        client = await opened.enter_async_context(AsyncClient(stack.address))
        pairs = await client.create_dataset("pairs")
        await client.append_records(pairs.name, [pair(1), pair(2)])
        version = await client.commit_version(pairs.name)
        campaign = await client.create_campaign("people", Campaign(dataset_version=version.name))
        job = await drafted(client, "by-endpoint", DraftSpec(campaign=campaign.name, model=stub.model()))
        assert job.state == job.STATE_SUCCEEDED, job.error
        assert (job.stages[0].completed, job.abstained_part_count, job.tokens_used) == (2, 0, 4 * (5 + 2))
        assert len(stub.asked) == 4
        found = [item.drafts[0] async for item in client.list_items(campaign.name)]
        assert [draft.annotation.preferred for draft in found] == [1, 1]

        async for progress in client.import_dataset(recipe.DATASET_ID, (tmp_path / "source").as_uri()):
            version = progress.dataset_version
        tiny = await client.register_model("base", (Path(recipe.__file__).parent / "model").as_uri())
        campaign = await client.create_campaign("tiny", Campaign(dataset_version=version.name))
        spec = DraftSpec(campaign=campaign.name, model=tiny.name, max_quarantine_fraction=1)
        spec.sampling.max_new_tokens = 32
        job = await drafted(client, "by-tiny", spec)
        assert job.state == job.STATE_SUCCEEDED, job.error
        items = [item async for item in client.list_items(campaign.name)]
        abstained = [one for item in items for draft in item.drafts for one in draft.abstentions]
        # It was never taught this form. What it writes instead is never taken for one.
        assert {one.reason for one in abstained} <= {"ANSWER_NOT_JSON", "ANSWER_TRUNCATED"}
        assert not any(draft.annotation.ByteSize() for item in items for draft in item.drafts)
        stage = job.stages[0]
        assert (stage.completed, stage.abstained + stage.quarantined) == (0, len(items))
        assert len(abstained) == job.abstained_part_count == stage.abstained > 0
        quarantine = [record async for record in client.stream_records("projects/default/datasets/by-tiny-quarantine")]
        assert {record.quarantine.reason for record in quarantine} <= {"PROMPT_TOO_LONG"}
