"""What is made of a Job, its pods and its events: who is to blame, and what is no failure."""

import json
from datetime import UTC, datetime

from google.protobuf import json_format
from hypothesis import given
from hypothesis import strategies as st

from omnialign.errors import FailedPrecondition, to_status
from services.training.kubernetes.manifests import READY_ANNOTATION
from services.training.kubernetes.observe import ClusterState, observe
from services.training.launcher import Observation, Phase
from tests.services.training.kubernetes import fake_controllers as pods

NOW = datetime(2026, 1, 1, tzinfo=UTC)


def job(*conditions: dict, nodes: int = 2, **spec: object) -> dict:
    return {
        "metadata": {"name": "j"},
        "spec": {"parallelism": nodes, **spec},
        "status": {"conditions": list(conditions)},
    }


def failed(reason: str = "BackoffLimitExceeded") -> dict:
    return {"type": "Failed", "status": "True", "reason": reason, "message": "words of the Job"}


def pod(index: int, status: dict, *, created: str = "2026-01-01T00:00:00Z") -> dict:
    metadata = {"name": f"j-{index}", "annotations": {pods.INDEX: str(index)}, "creationTimestamp": created}
    return {"metadata": metadata, "spec": {"containers": []}, "status": status}


def seen(*items: dict, of: dict | None = None, events: tuple = ()) -> Observation:
    return observe(ClusterState(of or job(nodes=len(items)), items, events), now=NOW)


def reason(observation: Observation) -> str:
    assert observation.phase is Phase.FAILED and observation.error is not None
    return observation.error.reason


def test_the_pod_that_ran_out_of_memory_is_to_blame_and_not_the_one_that_lost_its_peer():
    observation = seen(pod(0, pods.ended(1)), pod(1, pods.ended(137, reason="OOMKilled")), of=job(failed()))
    assert reason(observation) == "OOM_KILLED" and observation.crashed


def test_a_typed_error_is_to_blame_and_not_the_ranks_that_were_ended_for_it():
    left = {"status": json_format.MessageToDict(to_status(FailedPrecondition("no", reason="LOSS_NOT_FINITE")))}
    observation = seen(
        pod(0, pods.ended(1)), pod(1, pods.ended(65, message=json.dumps(left))), of=job(failed("PodFailurePolicy"))
    )
    assert reason(observation) == "LOSS_NOT_FINITE"


def test_an_eviction_that_took_the_other_nodes_down_is_no_crash():
    observation = seen(pod(0, pods.ended(1)), pod(1, pods.evicted("node drained")), of=job(failed()))
    assert reason(observation) == "EVICTED" and not observation.crashed


def test_a_kubelet_that_evicts_under_pressure_is_understood():
    status = {"phase": "Failed", "reason": "Evicted", "message": "The node was low on resource: memory."}
    assert "low on resource" in seen(pod(0, status)).message
    observation = seen(pod(0, status), of=job(failed(), nodes=1))
    assert reason(observation) == "EVICTED"


def test_a_failure_without_pods_keeps_the_jobs_words():
    observation = seen(of=job(failed()))
    assert reason(observation) == "PROCESS_DIED" and "words of the Job" in str(observation.error)


def test_a_replacement_hides_the_pod_that_it_replaces():
    before, after = pod(0, pods.evicted("x")), pod(0, pods.running(), created="2026-01-01T00:01:00Z")
    assert seen(before, after, of=job(nodes=1)) == Observation(Phase.RUNNING)


def test_a_lost_node_and_a_scheduling_gate_have_reasons_of_their_own():
    assert seen(pod(0, {"phase": "Unknown"})).reason == "NODE_LOST"
    gate = {"type": "PodScheduled", "status": "False", "reason": "SchedulingGated", "message": "gated"}
    assert seen(pod(0, {"phase": "Pending", "conditions": [gate]})).reason == "NOT_SCHEDULED"


def test_a_job_that_somebody_suspended_says_so():
    suspended = job(suspend=True)
    assert seen(of=suspended) == Observation(Phase.WAITING)
    suspended["metadata"]["annotations"] = {READY_ANNOTATION: "true"}
    assert seen(of=suspended).reason == "SUSPENDED"


def test_an_old_refusal_says_nothing_of_pods_made_since():
    refusal = {
        "metadata": {},
        "involvedObject": {"name": "j"},
        "reason": "FailedCreate",
        "message": "exceeded quota",
        "lastTimestamp": "2026-01-01T00:00:00Z",
    }
    running = pod(0, pods.running(), created="2026-01-01T00:05:00Z")
    assert seen(running, of=job(nodes=2), events=(refusal,)).reason == ""
    assert seen(of=job(nodes=2), events=(refusal,)).reason == "QUOTA_EXCEEDED"


def test_a_node_that_pulls_the_image_says_so_and_fails_nothing_however_long_it_takes():
    about = {"metadata": {}, "involvedObject": {"name": "j-0"}}
    pulling = {**about, "reason": "Pulling", "lastTimestamp": "2026-01-01T00:00:00Z"}
    pulled = {**about, "reason": "Pulled", "lastTimestamp": "2026-01-01T00:01:00Z"}
    waits = pod(0, {"phase": "Pending"})
    began = job(nodes=1)
    began["status"]["startTime"] = "2025-12-31T00:00:00Z"
    held = observe(ClusterState(began, [waits], (pulling,)), now=NOW, start_seconds=60.0)
    assert (held.phase, held.reason) == (Phase.WAITING, "PULLING_IMAGE")
    assert seen(waits, events=(pulling, pulled)).reason == ""


words = st.sampled_from(["", "OOMKilled", "Error", "ErrImagePull", "Evicted", "Unschedulable", "{", '{"status": 3}'])
states = st.one_of(
    st.builds(
        lambda c, r, m: {"terminated": {"exitCode": c, "reason": r, "message": m}}, st.integers(0, 255), words, words
    ),
    st.builds(lambda r: {"waiting": {"reason": r}}, words),
    st.just({"running": {}}),
    st.just({}),
    st.none(),
)
statuses = st.fixed_dictionaries(
    {"phase": st.sampled_from(["Pending", "Running", "Succeeded", "Failed", "Unknown"])},
    optional={
        "reason": words,
        "containerStatuses": st.lists(st.builds(lambda s: {"name": "trainer", "state": s}, states), max_size=2),
        "conditions": st.lists(
            st.builds(
                lambda t, s, r: {"type": t, "status": s, "reason": r},
                st.sampled_from(["PodScheduled", "DisruptionTarget", "Ready"]),
                st.sampled_from(["True", "False", "Unknown"]),
                words,
            ),
            max_size=3,
        ),
    },
)


@given(st.lists(statuses, max_size=3), st.sampled_from([None, "Failed", "Complete"]))
def test_whatever_pods_say_an_attempt_is_somewhere_and_a_failure_has_a_reason(given_statuses, end):
    conditions = [{"type": end, "status": "True"}] if end else []
    items = [pod(index, status) for index, status in enumerate(given_statuses)]
    observation = seen(*items, of=job(*conditions))
    assert (observation.phase is Phase.FAILED) == (end == "Failed")
    if observation.phase is Phase.FAILED:
        assert observation.error is not None and observation.error.reason and observation.error.message
    assert bool(observation.reason) == bool(observation.message)
