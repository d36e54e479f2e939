"""What holds a job up, and why it failed: each with a reason of its own."""

import json

import pytest

from omnialign.client import AsyncClient
from omnialign.errors import FailedPrecondition, from_status
from omnialign.v1.training_service_pb2 import TrainingJob, TrainingProgress
from services.training import supervisor
from tests.services.training.kubernetes import fake_controllers as pods
from tests.services.training.kubernetes.fake_api import Fault
from training.launch import write_termination


def reason_of(job: TrainingJob) -> str:
    assert job.state == TrainingJob.STATE_FAILED, job
    return from_status(job.error).reason


@pytest.mark.parametrize(
    ("status", "reason", "words"),
    [
        (pods.unschedulable("0/3 nodes are available: 3 Insufficient nvidia.com/gpu."), "UNSCHEDULABLE", "0/3 nodes"),
        (pods.waiting("ImagePullBackOff", 'Back-off pulling image "x"'), "IMAGE_PULL_FAILED", "Back-off"),
        (pods.waiting("CreateContainerConfigError", 'secret "tls" not found'), "CONTAINER_FAILED", 'secret "tls"'),
    ],
)
async def test_a_pod_that_cannot_start_shows_why_and_the_job_stays_queued(serve_cluster, status, reason, words):
    async with serve_cluster() as cluster:
        await cluster.create()
        (pod,) = await cluster.pods()
        cluster.set_pod(pod, status)
        job = await cluster.condition(reason)
        assert words in job.condition.message
        assert (job.state, job.attempt_count) == (TrainingJob.STATE_QUEUED, 1)
        cluster.set_pod(pod, {**pods.running(), "conditions": []})
        job = await cluster.state(TrainingJob.STATE_RUNNING)
        await cluster.until(lambda: _cleared(cluster))


async def _cleared(cluster) -> bool:
    return (await cluster.job()).condition.reason == "STARTING"  # nothing blocks it: its program starts


async def test_a_volume_that_does_not_come_is_told_by_its_event(serve_cluster):
    async with serve_cluster() as cluster:
        await cluster.create()
        (pod,) = await cluster.pods()
        cluster.api.event(pod["metadata"]["name"], "FailedMount", 'secret "x" not found')
        job = await cluster.condition("VOLUME_FAILED")
        assert 'secret "x"' in job.condition.message


@pytest.mark.parametrize(
    ("message", "reason"),
    [
        ('pods "x" is forbidden: exceeded quota: team, requested: cpu=1', "QUOTA_EXCEEDED"),
        ('pods "x" is forbidden: violates PodSecurity "restricted:latest"', "FORBIDDEN"),
    ],
)
async def test_pods_that_may_not_be_made_are_told_by_the_jobs_events(serve_cluster, api, message, reason):
    api.refuse_pods = message
    async with serve_cluster() as cluster:
        await cluster.create()
        assert message in (await cluster.condition(reason)).condition.message


async def test_an_evicted_pod_is_replaced_and_the_eviction_does_not_count(serve_cluster):
    async with serve_cluster() as cluster:
        await cluster.create(max_restarts=0)
        (pod,) = await cluster.pods()
        cluster.set_pod(pod, pods.running())
        await cluster.state(TrainingJob.STATE_RUNNING)
        condition = {"type": "DisruptionTarget", "status": "True", "reason": "PreemptionByScheduler", "message": "why"}
        cluster.set_pod(pod, {"conditions": [condition]})
        assert "why" in (await cluster.condition("EVICTED")).condition.message
        cluster.set_pod(pod, pods.evicted("preempted"))
        (replacement,) = await cluster.pods()
        cluster.set_pod(replacement, pods.running())
        await cluster.until(lambda: _cleared(cluster))
        job = await cluster.job()
        assert (job.state, job.attempt_count) == (TrainingJob.STATE_RUNNING, 1)


async def test_a_pod_killed_for_memory_fails_the_job_with_its_own_reason(serve_cluster):
    async with serve_cluster() as cluster:
        await cluster.create()
        (pod,) = await cluster.pods()
        cluster.set_pod(pod, pods.running())
        cluster.set_pod(pod, pods.ended(137, reason="OOMKilled"))
        job = await cluster.state(TrainingJob.STATE_FAILED)
        assert reason_of(job) == "OOM_KILLED"
        assert "8Gi" in job.error.message


async def test_a_typed_error_and_the_log_come_through_the_termination_message(serve_cluster, tmp_path):
    error = FailedPrecondition("nothing to train on", reason="NO_EXAMPLES", metadata={"dataset": "d"})
    write_termination(tmp_path / "termination", error, log_tail=["one", "two"])
    async with serve_cluster() as cluster:
        await cluster.create(max_restarts=5)
        (pod,) = await cluster.pods()
        cluster.set_pod(pod, pods.ended(65, message=(tmp_path / "termination").read_text()))
        job = await cluster.state(TrainingJob.STATE_FAILED)
        assert (reason_of(job), job.attempt_count) == ("NO_EXAMPLES", 1)
        assert list(job.log_tail) == ["one", "two"]


async def test_the_log_of_the_pod_that_broke_is_preferred_to_its_last_words(serve_cluster):
    async with serve_cluster() as cluster:
        await cluster.create()
        (pod,) = await cluster.pods()
        cluster.api.change("pods", pod["metadata"]["name"], {"log": "\n".join(f"line {i}" for i in range(100))})
        cluster.set_pod(pod, pods.ended(1))
        job = await cluster.state(TrainingJob.STATE_FAILED)
        assert reason_of(job) == "PROCESS_DIED"
        assert list(job.log_tail) == [f"line {i}" for i in range(60, 100)]


async def test_a_crash_is_tried_again_as_a_new_kubernetes_job(serve_cluster, api):
    async with serve_cluster() as cluster:
        await cluster.create(max_restarts=1)
        for attempt in (1, 2):
            (pod,) = await cluster.pods()
            assert pod["metadata"]["labels"]["omnialign.io/attempt"] == str(attempt)
            cluster.set_pod(pod, pods.ended(1))
        job = await cluster.state(TrainingJob.STATE_FAILED)
        assert job.attempt_count == 2
        assert api.count("POST", "jobs") == 2


async def test_a_deadline_tells_what_held_the_job_up(serve_cluster, api):
    async with serve_cluster() as cluster:
        await cluster.create()
        (pod,) = await cluster.pods()
        cluster.set_pod(pod, pods.unschedulable("0/3 nodes are available"))
        failed = {"type": "Failed", "status": "True", "reason": "DeadlineExceeded", "message": "was active too long"}
        api.change("jobs", pod["metadata"]["labels"][pods.JOB_NAME], {"status": {"conditions": [failed]}})
        job = await cluster.state(TrainingJob.STATE_FAILED)
        assert reason_of(job) == "DEADLINE_EXCEEDED"
        assert "0/3 nodes" in job.error.message


async def test_a_job_that_cannot_start_in_time_fails_with_what_held_it_up(serve_cluster):
    async with serve_cluster(kubernetes={"deadlines": {"startSeconds": 1}}) as cluster:
        await cluster.create()
        (pod,) = await cluster.pods()
        cluster.set_pod(pod, pods.waiting("ErrImagePull", "not found"))
        job = await cluster.state(TrainingJob.STATE_FAILED)
        assert reason_of(job) == "IMAGE_PULL_FAILED"


async def test_a_silent_job_shows_it_and_is_stopped_in_the_end(serve_cluster, api, monkeypatch):
    monkeypatch.setattr(supervisor, "SILENCE_SHOWN_SECONDS", 0.2)
    async with serve_cluster(heartbeat_timeout_seconds=1.5) as cluster:
        await cluster.create()
        (pod,) = await cluster.pods()
        cluster.set_pod(pod, pods.running())
        await cluster.condition("HEARTBEAT_LOST")
        job = await cluster.state(TrainingJob.STATE_FAILED)
        assert reason_of(job) == "HEARTBEAT_LOST"
        assert not api.of("jobs") and not api.of("pods")


async def test_a_job_in_a_queue_is_left_to_kueue(serve_cluster, api):
    async with serve_cluster(kubernetes={"queue": "team"}) as cluster:
        await cluster.create()
        job = await cluster.condition("QUEUED_BY_KUEUE")
        assert "team" in job.condition.message
        (made,) = api.of("jobs")
        assert made["spec"]["suspend"] is True
        assert made["metadata"]["labels"]["kueue.x-k8s.io/queue-name"] == "team"
        api.change("jobs", made["metadata"]["name"], {"spec": {"suspend": False}})  # as Kueue does
        (pod,) = await cluster.pods()
        cluster.set_pod(pod, pods.running())
        await cluster.state(TrainingJob.STATE_RUNNING)


async def test_a_job_deleted_by_somebody_else_is_failed(serve_cluster, api):
    async with serve_cluster() as cluster:
        await cluster.create()
        (pod,) = await cluster.pods()
        cluster.set_pod(pod, pods.running())
        await cluster.state(TrainingJob.STATE_RUNNING)
        api.change("jobs", api.of("jobs")[0]["metadata"]["name"], {"metadata": {"deletionTimestamp": "now"}})
        assert reason_of(await cluster.state(TrainingJob.STATE_FAILED)) == "JOB_DELETED"


async def test_a_right_that_the_service_lacks_is_named_and_waited_for(serve_cluster, api):
    api.faults.append(Fault("POST", "jobs", 403, times=1000, message="jobs.batch is forbidden"))
    async with serve_cluster() as cluster:
        await cluster.create()
        job = await cluster.condition("FORBIDDEN")
        assert "may not create jobs" in job.condition.message
        api.faults.clear()
        await cluster.pods()


async def test_a_quota_on_jobs_is_waited_for(serve_cluster, api):
    message = 'jobs.batch "x" is forbidden: exceeded quota: team, requested: count/jobs.batch=1'
    api.faults.append(Fault("POST", "jobs", 403, times=1000, message=message))
    async with serve_cluster() as cluster:
        await cluster.create()
        assert "exceeded quota" in (await cluster.condition("QUOTA_EXCEEDED")).condition.message


async def test_a_job_whose_pods_end_well_without_a_model_has_failed(serve_cluster):
    async with serve_cluster() as cluster:
        await cluster.create()
        (pod,) = await cluster.pods()
        cluster.set_pod(pod, pods.ended(0))
        assert reason_of(await cluster.state(TrainingJob.STATE_FAILED)) == "MODEL_NOT_DELIVERED"


async def test_a_base_model_that_no_pod_could_fetch_fails_before_anything_is_made(serve_cluster, api):
    async with serve_cluster() as cluster:
        await cluster.create(base_model="file:///models/base")
        assert reason_of(await cluster.state(TrainingJob.STATE_FAILED)) == "MODEL_NOT_REGISTERED"
        assert not api.count("POST", "jobs")


async def test_a_word_from_the_job_itself_makes_it_run_and_keeps_earlier_figures(serve_cluster, api):
    import base64

    async with serve_cluster() as cluster:
        await cluster.create()
        await cluster.pods()
        (secret,) = api.of("secrets")
        token = json.loads(base64.b64decode(secret["data"]["document.json"]))["spec"]["token"]
        async with AsyncClient(cluster.client._transport.address, token=token) as reporter:
            name = (await cluster.job()).name
            await reporter.report_progress(name, TrainingProgress(completed_steps=3, total_steps=9))
            await reporter.report_progress(name, TrainingProgress())
        job = await cluster.job()
        assert (job.state, job.progress.completed_steps) == (TrainingJob.STATE_RUNNING, 3)
