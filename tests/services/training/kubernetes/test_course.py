"""The course of jobs in a cluster that does not always do as it should: restarts, cancels, conflicts, throttling."""

import asyncio
import base64
import json

import pytest

from omnialign.client import AsyncClient
from omnialign.errors import FailedPrecondition, InvalidArgument, PermissionDenied, from_status
from omnialign.v1.training_service_pb2 import TrainingJob
from services.training.kubernetes.manifests import READY_ANNOTATION
from tests.services.training.kubernetes import fake_controllers as pods
from tests.services.training.kubernetes.conftest import NAME
from tests.services.training.kubernetes.fake_api import Fault


def document_of(api) -> dict:
    (secret,) = api.of("secrets")
    return json.loads(base64.b64decode(secret["data"]["document.json"]))


async def running(cluster):
    await cluster.create()
    (pod,) = await cluster.pods()
    cluster.set_pod(pod, pods.running())
    await cluster.state(TrainingJob.STATE_RUNNING)
    return pod


async def deliver(cluster, folder, *, attempt=1):
    token = document_of(cluster.api)["spec"]["token"]
    async with AsyncClient(cluster.client._transport.address, token=token) as job:
        return await job.deliver_model(NAME, folder, attempt=attempt)


async def test_a_job_owns_what_it_needs_and_starts_when_all_is_there(serve_cluster, api):
    async with serve_cluster() as cluster:
        await cluster.create()
        await cluster.pods()
        (job,), (secret,), (service,) = api.of("jobs"), api.of("secrets"), api.of("services")
        for owned in (secret, service):
            (owner,) = owned["metadata"]["ownerReferences"]
            assert (owner["uid"], owner["blockOwnerDeletion"]) == (job["metadata"]["uid"], True)
        assert job["spec"]["suspend"] is False
        order = [(method, kind) for method, kind, _ in api.requests if method in ("POST", "PATCH")]
        assert order == [("POST", "jobs"), ("POST", "secrets"), ("POST", "services"), ("PATCH", "jobs")]


async def test_a_delivered_model_is_registered_and_ends_the_job_and_again_changes_nothing(serve_cluster, base_model):
    async with serve_cluster() as cluster:
        pod = await running(cluster)
        name = await deliver(cluster, base_model)
        job = await cluster.job()
        assert (job.state, job.model) == (TrainingJob.STATE_SUCCEEDED, name)
        assert await deliver(cluster, base_model) == name
        assert (await cluster.client.get_model_version(name)).name == name
        sources = {edge.source for edge in (await cluster.client.get_lineage(name)).edges}
        assert {cluster.spec.dataset, cluster.spec.base_model, NAME} <= sources
        cluster.set_pod(pod, pods.ended(0))
        await cluster.until(lambda: pods.finished(cluster.api.of("jobs")[0]))
        assert len([v async for v in cluster.client.list_model_versions() if "/aligned/" in v.name]) == 1


async def test_a_delivery_needs_the_current_attempt_and_the_jobs_own_token(serve_cluster, base_model):
    async with serve_cluster() as cluster:
        await running(cluster)
        with pytest.raises(FailedPrecondition) as caught:
            await deliver(cluster, base_model, attempt=2)
        assert caught.value.reason == "ATTEMPT_OUTDATED"
        async with AsyncClient(cluster.client._transport.address, token="other") as stranger:
            with pytest.raises(PermissionDenied):
                await stranger.deliver_model(NAME, base_model, attempt=1)
        await cluster.client.cancel_training_job(NAME)
        with pytest.raises((FailedPrecondition, PermissionDenied)):
            await deliver(cluster, base_model)


async def test_a_service_that_restarts_finds_its_jobs_and_makes_none_twice(serve_cluster, api, base_model):
    async with serve_cluster() as cluster:
        pod = await running(cluster)
    async with serve_cluster() as cluster:
        await asyncio.sleep(0.3)
        assert (await cluster.job()).state == TrainingJob.STATE_RUNNING
        assert await deliver(cluster, base_model)
        cluster.set_pod(pod, pods.ended(0))
        await cluster.until(lambda: pods.finished(api.of("jobs")[0]))
    assert api.count("POST", "jobs") == 1


async def test_what_happens_while_the_service_is_away_is_found_at_its_return(serve_cluster, api):
    async with serve_cluster() as cluster:
        pod = await running(cluster)
    cluster.set_pod(pod, pods.ended(137, reason="OOMKilled"))
    async with serve_cluster() as cluster:
        job = await cluster.state(TrainingJob.STATE_FAILED)
        assert from_status(job.error).reason == "OOM_KILLED"


async def test_cancel_deletes_the_job_and_is_over_only_when_its_pods_are_gone(serve_cluster, api):
    async with serve_cluster() as cluster:
        await running(cluster)
        api.hold_deletions = True
        await cluster.client.cancel_training_job(NAME)
        await cluster.until(lambda: api.of("jobs")[0]["metadata"].get("deletionTimestamp"))
        await asyncio.sleep(0.3)
        assert (await cluster.job()).state == TrainingJob.STATE_CANCELLING
        api.hold_deletions = False
        api.controllers[0].wake()
        await cluster.state(TrainingJob.STATE_CANCELLED)
        assert not (api.of("jobs") or api.of("pods") or api.of("secrets") or api.of("services"))


async def test_a_create_whose_answer_is_lost_is_the_same_job(serve_cluster, api):
    api.faults.append(Fault("POST", "jobs", 504, after=True, message="the answer is lost"))
    async with serve_cluster() as cluster:
        await running(cluster)
        assert (len(api.of("jobs")), (await cluster.job()).attempt_count) == (1, 1)


async def test_throttling_is_waited_out_as_long_as_the_server_says(serve_cluster, api):
    api.faults.append(Fault("POST", "secrets", 429, times=2, headers={"Retry-After": "1"}))
    async with serve_cluster() as cluster:
        began = asyncio.get_running_loop().time()
        await running(cluster)
        assert asyncio.get_running_loop().time() - began >= 2
        assert api.count("POST", "secrets") == 3


async def test_a_service_that_died_between_two_objects_leaves_nothing_and_starts_anew(serve_cluster, api):
    api.faults.append(Fault("POST", "services", 403, times=10_000, message="not now"))
    async with serve_cluster() as cluster:
        await cluster.create()
        await cluster.condition("FORBIDDEN")
        (first,) = api.of("jobs")
        assert first["spec"]["suspend"] is True
    api.faults.clear()
    async with serve_cluster() as cluster:
        (pod,) = await cluster.pods()
        (second,) = api.of("jobs")
        assert second["metadata"]["name"] == first["metadata"]["name"]
        assert second["metadata"]["uid"] != first["metadata"]["uid"]
        assert second["metadata"]["annotations"][READY_ANNOTATION] == "true"
        cluster.set_pod(pod, pods.running())
        await cluster.state(TrainingJob.STATE_RUNNING)
        await cluster.client.cancel_training_job(NAME)  # its token is the one that the service knows
        await cluster.state(TrainingJob.STATE_CANCELLED)


async def test_jobs_that_nobody_knows_any_more_are_deleted_at_the_start(serve_cluster, api):
    async with serve_cluster() as cluster:
        pod = await running(cluster)
        (made,) = api.of("jobs")
    orphan = {"name": "train-0-1", "labels": {**made["metadata"]["labels"], "omnialign.io/job-uid": "none"}}
    foreign = {"name": "train-0-2", "labels": {**orphan["labels"], "app.kubernetes.io/instance": "other"}}
    for metadata in (orphan, foreign):
        api.add("jobs", {"metadata": metadata, "spec": {**made["spec"], "suspend": True}})
    async with serve_cluster() as cluster:
        await cluster.until(lambda: ("jobs", "train-0-1") not in api.objects)
        assert ("jobs", "train-0-2") in api.objects
        assert ("pods", pod["metadata"]["name"]) in api.objects
        assert (await cluster.job()).state == TrainingJob.STATE_RUNNING


async def test_a_cluster_that_is_away_keeps_the_state_and_is_shown(serve_cluster, api):
    async with serve_cluster() as cluster:
        pod = await running(cluster)
        api.away = True
        api.forget_history()  # the open watches end too
        job = await cluster.condition("CLUSTER_UNAVAILABLE")
        assert job.state == TrainingJob.STATE_RUNNING
        api.away = False
        cluster.set_pod(pod, pods.ended(137, reason="OOMKilled"))
        assert from_status((await cluster.state(TrainingJob.STATE_FAILED)).error).reason == "OOM_KILLED"


async def test_a_watch_that_is_too_old_is_begun_anew_with_a_list(serve_cluster, api):
    async with serve_cluster() as cluster:
        pod = await running(cluster)
        lists = api.count("GET", "pods")
        api.forget_history()
        await cluster.until(lambda: api.count("GET", "pods") > lists)
        cluster.set_pod(pod, pods.ended(137, reason="OOMKilled"))
        assert from_status((await cluster.state(TrainingJob.STATE_FAILED)).error).reason == "OOM_KILLED"


async def test_a_watch_that_is_refused_as_too_old_is_begun_anew_with_a_list(serve_cluster, api):
    async with serve_cluster() as cluster:
        pod = await running(cluster)
        api.faults.append(Fault("watch", "pods", 410, times=1))
        api.forget_history()
        cluster.set_pod(pod, pods.ended(137, reason="OOMKilled"))
        assert from_status((await cluster.state(TrainingJob.STATE_FAILED)).error).reason == "OOM_KILLED"


async def test_a_right_to_watch_that_is_lacking_is_named(serve_cluster, api):
    async with serve_cluster() as cluster:
        await running(cluster)
        api.faults.append(Fault("watch", "jobs", 403, times=10_000, message="jobs is forbidden"))
        api.faults.append(Fault("GET", "jobs", 403, times=10_000, message="jobs is forbidden"))
        api.forget_history()
        job = await cluster.condition("FORBIDDEN")
        assert "jobs" in job.condition.message


async def test_only_so_many_jobs_are_launched_at_a_time(serve_cluster, api):
    async with serve_cluster(max_running=1) as cluster:
        await cluster.create()
        await cluster.client.create_training_job("later", cluster.spec)
        (pod,) = await cluster.pods()
        await asyncio.sleep(0.3)
        assert len(api.of("jobs")) == 1
        cluster.set_pod(pod, pods.ended(1))
        await cluster.until(lambda: len(api.of("jobs")) == 2)


async def test_nodes_of_a_job_are_pods_of_one_indexed_job_and_all_must_run(serve_cluster, api):
    async with serve_cluster() as cluster:
        cluster.spec.distribution.num_nodes = 2
        await cluster.create()
        first, second = await cluster.pods(2)
        cluster.set_pod(first, pods.running())
        cluster.set_pod(second, pods.unschedulable("no node"))
        assert (await cluster.condition("UNSCHEDULABLE")).state == TrainingJob.STATE_QUEUED
        cluster.set_pod(second, {**pods.running(), "conditions": []})
        await cluster.state(TrainingJob.STATE_RUNNING)
        document = document_of(api)
        assert document["num_nodes"] == 2
        service = api.of("services")[0]["metadata"]["name"]
        assert document["host_pattern"].format(index=0) == f"{first['spec']['hostname']}.{service}"
        assert first["spec"]["subdomain"] == service


async def test_a_name_that_belongs_to_something_else_fails_the_job(serve_cluster, api, monkeypatch):
    from services.training.kubernetes import manifests

    monkeypatch.setattr(manifests, "name_of", lambda job, attempt: "train-taken")
    api.add("jobs", {"metadata": {"name": "train-taken", "labels": {}}, "spec": {"suspend": True}})
    async with serve_cluster() as cluster:
        await cluster.create()
        job = await cluster.state(TrainingJob.STATE_FAILED)
        assert from_status(job.error).reason == "JOB_NAME_TAKEN"


async def test_more_processes_than_gpus_is_refused(serve_cluster):
    async with serve_cluster(kubernetes={"gpus": 1}) as cluster:
        cluster.spec.distribution.num_processes = 2
        await cluster.create()
        assert from_status((await cluster.state(TrainingJob.STATE_FAILED)).error).reason == "TRAINING_SPEC_INVALID"


async def test_more_nodes_than_a_service_can_have_are_refused_at_once(serve, spec, program):
    spec.distribution.num_nodes = 2
    async with serve(program("finish()")) as client:
        with pytest.raises(InvalidArgument) as caught:
            await client.create_training_job("tune", spec)
        assert caught.value.reason == "TRAINING_SPEC_INVALID"


async def test_an_api_server_that_hangs_is_asked_again(serve_cluster, api, monkeypatch):
    from services.training.kubernetes import api as calls

    monkeypatch.setattr(calls, "READ_SECONDS", 0.3)
    api.faults.append(Fault("POST", "secrets", 0, times=2, seconds=0.6))
    async with serve_cluster() as cluster:
        await running(cluster)
        assert len(api.of("secrets")) == 1


async def test_a_reason_outlives_the_time_that_the_pods_take_to_go(serve_cluster, api, monkeypatch):
    from services.training.kubernetes import launcher

    monkeypatch.setattr(launcher, "STOP_SHOWN_SECONDS", 0.2)
    async with serve_cluster(heartbeat_timeout_seconds=1.0) as cluster:
        api.hold_deletions = True
        await running(cluster)
        assert "waits for the end" in (await cluster.condition("STOPPING")).condition.message
        api.hold_deletions = False
        api.controllers[0].wake()
        job = await cluster.state(TrainingJob.STATE_FAILED)
        assert from_status(job.error).reason == "HEARTBEAT_LOST"


async def test_a_file_of_settings_that_is_wrong_is_told_at_the_start(tmp_path):
    from services.runtime.config import ConfigError, load
    from services.training.config import TrainingConfig

    (tmp_path / "kubernetes.yaml").write_text("imagee: x\nfoo: 1\n")
    environment = {
        "OMNIALIGN_TRAINING_ROOT": str(tmp_path),
        "OMNIALIGN_TRAINING_LAUNCHER": "kubernetes",
        "OMNIALIGN_TRAINING_KUBERNETES_FILE": str(tmp_path / "kubernetes.yaml"),
    }
    with pytest.raises(ConfigError) as caught:
        load(TrainingConfig, environment)
    told = str(caught.value)
    for part in ("imagee", "foo", "DATA_ADDRESS", "TRAINING_ADDRESS"):
        assert part in told


async def test_a_list_that_is_throttled_is_made_again_no_sooner_than_the_server_says(serve_cluster, api):
    async with serve_cluster() as cluster:
        pod = await running(cluster)
        api.faults.append(Fault("GET", "pods", 429, times=1, headers={"Retry-After": "1"}))
        before, began = api.count("GET", "pods"), asyncio.get_running_loop().time()
        api.forget_history()
        await cluster.until(lambda: api.count("GET", "pods") == before + 2)
        assert asyncio.get_running_loop().time() - began >= 1
        cluster.set_pod(pod, pods.ended(137, reason="OOMKilled"))
        await cluster.state(TrainingJob.STATE_FAILED)
