"""The whole way in a cluster, but for the cluster: real services, and pods that are processes of this machine."""

from pathlib import Path

import pytest

from omnialign.content import content
from omnialign.errors import from_status
from omnialign.v1 import record_pb2
from omnialign.v1.training_service_pb2 import TrainingJob
from tests.processes import free_port
from tests.services.training.kubernetes.conftest import NAME
from tests.services.training.kubernetes.kubelet import Kubelet
from tests.services.training.test_real_run import make_model


@pytest.fixture
def base_model(tmp_path: Path) -> Path:
    return make_model(tmp_path / "tiny")


async def prepare(cluster, *, nodes: int, processes: int, steps: int = 4) -> None:
    spec = cluster.spec
    spec.method, spec.target = "sft", "response"
    spec.hyperparameters.max_steps, spec.hyperparameters.batch_size = steps, 4
    spec.hyperparameters.checkpoint_every_steps = 2
    spec.distribution.num_nodes, spec.distribution.num_processes = nodes, processes
    spec.distribution.zero_stage = 2
    records = [
        record_pb2.Record(
            id=f"r{i}", subtask="t2t", prompt=content("hi"), responses=[record_pb2.Response(content=content("yes" * i))]
        )
        for i in range(1, 9)
    ]
    await cluster.client.create_dataset("pairs")
    await cluster.client.append_records(spec.dataset, records)
    await cluster.client.commit_version(spec.dataset)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize(("nodes", "processes"), [(1, 2), (2, 1)])
async def test_pods_fetch_train_and_deliver(serve_cluster, api, tmp_path, nodes, processes):
    async with serve_cluster() as cluster, Kubelet(api, tmp_path / "node", rendezvous_port=free_port()) as kubelet:
        await prepare(cluster, nodes=nodes, processes=processes)
        await cluster.create()
        job = [event async for event in cluster.client.watch_training_job(NAME)][-1].training_job
        logs = "\n".join(path.read_text() for path in kubelet.logs.values())
        assert job.state == TrainingJob.STATE_SUCCEEDED, f"{job}\n{logs}"
        assert job.progress.completed_steps == 4
        assert job.attempt_count == 1
        version = await cluster.client.download_model(job.model, tmp_path / "fetched")
        assert version.name == job.model
        names = {path.name for path in (tmp_path / "fetched").iterdir()}
        assert {"model.safetensors", "tokenizer.json", "codecs.json", "config.json"} <= names
        assert len(kubelet.logs) == nodes


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_dataset_without_examples_fails_the_job_at_once_with_its_reason(serve_cluster, api, tmp_path):
    async with serve_cluster() as cluster, Kubelet(api, tmp_path / "node", rendezvous_port=free_port()) as kubelet:
        await prepare(cluster, nodes=1, processes=1)
        cluster.spec.target = "feedback"
        await cluster.create(max_restarts=3)
        job = [event async for event in cluster.client.watch_training_job(NAME)][-1].training_job
        assert job.state == TrainingJob.STATE_FAILED, job
        assert from_status(job.error).reason == "NO_EXAMPLES", job
        assert job.log_tail
        assert len(kubelet.logs) == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_a_pod_told_to_end_stops_with_its_own_code_and_is_replaced(serve_cluster, api, tmp_path):
    async with serve_cluster() as cluster, Kubelet(api, tmp_path / "node", rendezvous_port=free_port()) as kubelet:
        await prepare(cluster, nodes=1, processes=1, steps=100_000)
        await cluster.create()

        async def stepped() -> bool:
            return (await cluster.job()).progress.completed_steps > 0

        for _ in range(6):
            try:
                await cluster.until(stepped)
                break
            except TimeoutError:
                continue
        (name,) = kubelet.logs
        kubelet.terminate(name)
        for _ in range(6):
            try:
                await cluster.until(lambda: len(kubelet.logs) == 2)
                break
            except TimeoutError:
                continue
        ended = api.objects["pods", name]["status"]["containerStatuses"][0]["state"]["terminated"]
        assert ended["exitCode"] == 75
        assert (await cluster.job()).attempt_count == 1
        await cluster.client.cancel_training_job(NAME)
        await cluster.state(TrainingJob.STATE_CANCELLED)
