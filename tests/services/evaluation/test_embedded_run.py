"""An evaluation of a real model, on the stack of a laptop."""

import asyncio
import contextlib
import json
import random
from pathlib import Path

import pytest

from examples.tinyworld import dataset, recipe
from examples.tinyworld.language import random_task
from omnialign.client import AsyncClient
from omnialign.combinations import combination_of
from omnialign.content import content, text_of
from omnialign.v1 import evaluation_service_pb2, record_pb2
from services.embedded import embedded
from tests.services.inference.stub_endpoint import chat, says, serve_stub

Spec, Benchmark = evaluation_service_pb2.EvaluationSpec, evaluation_service_pb2.Benchmark
HTML = evaluation_service_pb2.GetEvaluationReportRequest.FORMAT_HTML


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_the_tiny_worlds_model_writes_media_that_a_program_checks(tmp_path: Path) -> None:
    sizes = dataset.Sizes(train=0, prompts=0, validation=0, test=2)
    await asyncio.to_thread(dataset.write, tmp_path / "source", seed=1, sizes=sizes)
    async with embedded(tmp_path / "root") as stack, AsyncClient(stack.address) as client:
        async for progress in client.import_dataset(recipe.DATASET_ID, (tmp_path / "source").as_uri()):
            version = progress.dataset_version
        model = await client.register_model("base", (Path(recipe.__file__).parent / "model").as_uri())
        benchmarks = [
            Benchmark(name="checkers", dataset=version.name, checkers=["tinyworld"], ablation="image"),
        ]
        spec = Spec(models=[model.name], benchmarks=benchmarks, seed=1, chunk_size=8)
        evaluation = await client.create_evaluation("lab", spec)
        async for event in client.watch_evaluation(evaluation.name):
            evaluation = event.evaluation
        assert evaluation.state == evaluation.STATE_SUCCEEDED, evaluation.error
        whole = {s.ablation: s for s in evaluation.scores if s.measure == "share" and not s.group}
        assert whole[""].judged == version.record_count
        assert 0 < whole[""].value <= 1
        assert 0 < whole["image"].judged + whole["image"].failed < version.record_count
        page = (await client.get_evaluation_report(evaluation.name, HTML)).decode()
        report = json.loads(await client.get_evaluation_report(evaluation.name))
    assert "data:video/mp4" in page
    assert "data:audio/" in page
    assert len(report["manifest"]["models"][0]["sha256"]) == 64


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_chat_instructs_the_tiny_worlds_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    wanted = random_task(random.Random(1), "t2i").text
    reply = f"[[response]]: Here it is.\n[[image_instruction]]: {wanted}\n[[audio_instruction]]: None"
    item = record_pb2.Record(id="v", subtask="t2tia", split="test", prompt=content("Show me something."))
    item.benchmark_item.selection_shares.update({"t": 0.2, "ti": 0.7, "tia": 0.1})
    async with contextlib.AsyncExitStack() as opened:
        stub = await opened.enter_async_context(serve_stub(says(chat(reply))))
        monkeypatch.setenv("OMNIALIGN_ENGINE_OPENAI_ENDPOINTS", stub.base_url)
        stack = await opened.enter_async_context(embedded(tmp_path / "root"))
        client = await opened.enter_async_context(AsyncClient(stack.address))
        votes = await client.create_dataset("votes")
        await client.append_records(votes.name, [item])
        version = await client.commit_version(votes.name)
        painter = await client.register_model("painter", (Path(recipe.__file__).parent / "model").as_uri())
        spec = Spec(
            models=[stub.model()],
            benchmarks=[Benchmark(name="selection", dataset=version.name)],
            generators=[
                evaluation_service_pb2.MediaGenerator(modality=modality, model=painter.name)
                for modality in ("image", "audio")
            ],
        )
        evaluation = await client.create_evaluation("agents", spec)
        async for event in client.watch_evaluation(evaluation.name):
            evaluation = event.evaluation
        assert evaluation.state == evaluation.STATE_SUCCEEDED, evaluation.error
        (score,) = [s for s in evaluation.scores if s.measure == "selection" and not s.group]
        assert score.value == pytest.approx(0.7)
        (record,) = [r async for r in client.stream_records("projects/default/datasets/agents-answers")]
        page = (await client.get_evaluation_report(evaluation.name, HTML)).decode()
    (answer,) = record.responses
    assert combination_of(answer.content) == "ti"
    assert text_of(answer.content) == "Here it is."
    assert answer.made_of[1].generation.template.startswith("response@")
    assert {t.partition("@")[0] for t in evaluation.manifest.templates} == {"agents", "response"}
    asked = stub.asked[0]["messages"][0]["content"]
    assert asked.endswith("##Request: Show me something.")
    assert "data:image/png" in page
