"""An evaluation of a real model, on the stack of a laptop."""

import asyncio
import json
from pathlib import Path

import pytest

from examples.tinyworld import dataset, recipe
from omnialign.client import AsyncClient
from omnialign.v1 import evaluation_service_pb2
from services.embedded import embedded

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
