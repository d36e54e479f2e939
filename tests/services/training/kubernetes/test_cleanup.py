"""What is left in a cluster when an installation has been removed: nothing that runs."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from services.training.kubernetes import cleanup
from tests.services.training.kubernetes.conftest import kubeconfig_of
from tests.services.training.kubernetes.fake_api import FakeApi, Fault
from tests.services.training.kubernetes.fake_controllers import running

INSTANCE, COMPONENT = "app.kubernetes.io/instance", "app.kubernetes.io/component"


@pytest.fixture(autouse=True)
def soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cleanup, "POLL_SECONDS", 0.02)


def labels(component: str, *, instance: str = "omnialign") -> dict[str, str]:
    return {INSTANCE: instance, COMPONENT: component}


def place(api: FakeApi, kind: str, name: str, component: str, *, instance: str = "omnialign", **parts: Any) -> None:
    api.add(kind, {"metadata": {"name": name, "labels": labels(component, instance=instance)}, "status": {}, **parts})


def place_service(api: FakeApi) -> None:
    place(api, "deployments", "omnialign-training", "training", spec={"replicas": 1}, labels=labels("training"))


async def clean(api: FakeApi, folder: Path, *, keep_jobs: bool = False, seconds: float = 10.0) -> int:
    kubeconfig, file = folder / "cleanup-kubeconfig", folder / "cleanup.yaml"
    kubeconfig.write_text(yaml.safe_dump(kubeconfig_of(api)))
    file.write_text(yaml.safe_dump({"image": "x", "namespace": "test", "kubeconfig": str(kubeconfig)}))
    return await cleanup.clean(file, deployment="omnialign-training", keep_jobs=keep_jobs, deadline_seconds=seconds)


def names(api: FakeApi, *kinds: str) -> list[str]:
    return [item["metadata"]["name"] for kind in kinds for item in api.of(kind)]


async def test_training_jobs_end_with_their_secrets_and_services(serve_cluster, tmp_path):
    async with serve_cluster() as cluster:
        await cluster.create()
        (pod,) = await cluster.pods()
        cluster.set_pod(pod, running())
        place(
            cluster.api,
            "deployments",
            "omnialign-training",
            "training",
            spec={"replicas": 1},
            labels=labels("training"),
        )
        place(cluster.api, "pods", "service", "training")
        assert names(cluster.api, "secrets", "services")
        assert await clean(cluster.api, tmp_path) == 0
        assert cluster.api.objects["deployments", "omnialign-training"]["spec"]["replicas"] == 0
        assert names(cluster.api, "jobs", "pods", "secrets", "services") == []


async def test_the_service_is_gone_before_its_jobs_are_deleted(api, tmp_path):
    place_service(api)
    assert await clean(api, tmp_path) == 0
    order = [(method, kind) for method, kind, _ in api.requests]
    assert order[0][0] == "PATCH" and ("GET", "jobs") in order[1:]


async def test_pods_of_tests_and_jobs_of_failed_hooks_go_and_others_stay(api, tmp_path):
    place(api, "pods", "omnialign-test-job", "test", status={"phase": "Failed"})
    place(api, "jobs", "omnialign-migrate", "migrate")
    place(api, "pods", "other-test-job", "test", instance="other")
    place(api, "jobs", "other-migrate", "migrate", instance="other")
    assert await clean(api, tmp_path, keep_jobs=True) == 0
    left = [item for kind in ("pods", "jobs") for item in api.of(kind) if "deletionTimestamp" not in item["metadata"]]
    assert [item["metadata"]["name"] for item in left] == ["other-test-job", "other-migrate"]


async def test_jobs_stay_where_the_operator_wants_it(serve_cluster, tmp_path):
    async with serve_cluster() as cluster:
        await cluster.create()
        await cluster.pods()
        assert await clean(cluster.api, tmp_path, keep_jobs=True) == 0
        assert len(names(cluster.api, "jobs", "pods")) == 2


async def test_what_cannot_be_ended_is_named(api, tmp_path, capsys):
    place(api, "deployments", "omnialign-training", "training", spec={"replicas": 1}, labels={})
    place(api, "pods", "stuck", "training")
    assert await clean(api, tmp_path, seconds=0.3) == 1
    assert "still there after 0.3 s: pod stuck" in capsys.readouterr().out


async def test_a_refusal_is_told_in_the_words_of_the_cluster(api, tmp_path, capsys):
    api.faults.append(Fault("GET", "jobs", 403, message="jobs is forbidden"))
    assert await clean(api, tmp_path) == 1
    assert "FORBIDDEN" in capsys.readouterr().out
