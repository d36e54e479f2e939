"""A reward model from records to rewards: trained by the training service, asked of the judge service."""

import json
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest

from omnialign.client import AsyncClient
from omnialign.content import content
from omnialign.errors import from_status
from omnialign.modeling.reward_folder import REPORT
from omnialign.v1 import judge_service_pb2 as pb
from omnialign.v1 import record_pb2
from omnialign.v1.training_service_pb2 import TrainingJob
from services.inference.config import EngineConfig
from services.inference.factory import open_engine
from services.judge.__main__ import JudgeConfig
from services.judge.__main__ import wire as wire_judge
from services.runtime.config import ServerConfig
from services.runtime.server import Server
from tests.processes import free_port
from tests.services.training.test_real_run import make_model


def pair(number: int, *, rated: bool) -> record_pb2.Record:
    """Of two responses the one with a `y` is better, as the preference says or, if `rated`, the ratings."""
    draw = random.Random(number)
    words = ["".join(draw.choices("abcdefg", k=draw.randint(2, 9))) for _ in range(3)]
    responses = [record_pb2.Response(content=content(text)) for text in (words[1], f"{words[2]}y")]
    record = record_pb2.Record(id=f"r{number}", subtask="t2t", prompt=content(words[0]), responses=responses)
    if rated:
        for response, score in zip(record.responses, (1, 3), strict=True):
            response.feedback.scores.add(dimension="clarity", score=score)
    else:
        record.preference.preferred = 2
    return record


@asynccontextmanager
async def judging(address: str) -> AsyncIterator[AsyncClient]:
    """A client of a judge service whose models are those of the data service at an address."""
    server = Server(ServerConfig(), name="judge")
    async with (
        open_engine(server, EngineConfig(threads=1), data_address=address) as engine,
        wire_judge(server, JudgeConfig(address), engine=engine),
    ):
        await server.start()
        server.set_serving()
        async with AsyncClient(server.address) as client:
            yield client
        await server.stop(0)


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_trained_reward_model_puts_the_better_response_ahead(serve, spec, tmp_path: Path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(Path.cwd()))
    spec.base_model = make_model(tmp_path / "tiny").as_uri()
    spec.method, spec.target = "reward", ""
    spec.hyperparameters.num_epochs, spec.hyperparameters.learning_rate = 4, 3e-3
    spec.reward.use_margin = True
    spec.hyperparameters.evaluation.holdout_fraction = 0.2
    port = free_port()
    records = [pair(i, rated=i % 2 == 0) for i in range(240)]
    async with AsyncExitStack() as stack:
        client = await stack.enter_async_context(serve((), port=port))
        dataset = await client.create_dataset("pairs")
        await client.append_records(dataset.name, records)
        await client.commit_version(dataset.name)
        job = await client.create_training_job("reward", spec)
        job = [event async for event in client.watch_training_job(job.name)][-1].training_job
        assert job.state == TrainingJob.STATE_SUCCEEDED, job
        metrics = job.progress.metrics
        assert metrics["eval/accuracy"] > 0.9
        assert metrics["eval/log_loss"] < 0.5
        version = await client.get_model_version(job.model)
        assert version.reward_model
        report = json.loads((Path(version.uri.removeprefix("file://")) / REPORT).read_text())
        assert report["pairs"] == metrics["eval/pairs"] > 20
        assert report["accuracy_interval"][0] < report["accuracy"] <= report["accuracy_interval"][1]
        judge = await stack.enter_async_context(judging(f"127.0.0.1:{port}"))
        fresh = [pair(i, rated=False) for i in range(1000, 1040)]
        items = [
            pb.RewardItem(id=f"{record.id}/{at}", prompt=record.prompt, response=record.responses[at].content)
            for record in fresh
            for at in (0, 1)
        ]
        request = pb.ComputeRewardsRequest(model=job.model, items=items)
        rewards = {result.id: result.reward async for result in judge.compute_rewards(request)}
        ahead = [rewards[f"{record.id}/1"] > rewards[f"{record.id}/0"] for record in fresh]
        assert sum(ahead) > 36
        # It gives rewards and nothing else: no method that learns to write may start from it.
        spec.base_model, spec.method = job.model, "dpo"
        spec.ClearField("reward")
        job = await client.create_training_job("dpo", spec)
        job = [event async for event in client.watch_training_job(job.name)][-1].training_job
        assert from_status(job.error).reason == "MODEL_IS_A_REWARD_MODEL"
        assert not job.HasField("start_time")
