"""The objects of an attempt: valid for real API servers, restricted, and as the operator's settings say."""

import base64
import json

import kubernetes_validate
import pytest

from omnialign.v1.training_service_pb2 import TrainingJob
from services.training.kubernetes import manifests
from services.training.kubernetes.settings import KubernetesSettings, parse_settings
from training.pod_paths import PodDocument

FULL = {
    "image": "registry.test/trainer:1",
    "imagePullSecrets": ["registry"],
    "namespace": "jobs",
    "serviceAccountName": "trainer",
    "labels": {"team": "a", manifests.UID_LABEL: "cannot be overridden"},
    "annotations": {"note": "n"},
    "resources": {"requests": {"cpu": 2, "memory": "4Gi"}, "limits": {"cpu": 4, "memory": "8Gi"}},
    "gpus": 8,
    "nodeSelector": {"pool": "train"},
    "tolerations": [{"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}],
    "affinity": {"podAffinity": {"preferredDuringSchedulingIgnoredDuringExecution": []}},
    "topologySpreadConstraints": [
        {"maxSkew": 1, "topologyKey": "zone", "whenUnsatisfiable": "ScheduleAnyway", "labelSelector": {}}
    ],
    "priorityClassName": "batch",
    "runtimeClassName": "nvidia",
    "queue": "team-a",
    "workspace": {"claim": "shared"},
    "tls": {"secretName": "trainer-tls"},
    "env": {"NCCL_DEBUG": "WARN"},
}
MINIMAL = {"image": "registry.test/trainer:1"}
UID = "0f8fad5b-d9cb-469f-a165-70867728950e"


def plan(document: dict, *, nodes: int = 2) -> manifests.Plan:
    job = TrainingJob(name="projects/default/trainingJobs/tune", uid=UID)
    job.spec.method, job.spec.dataset = "dpo", "projects/default/datasets/d"
    job.spec.base_model = "projects/default/models/m/versions/1"
    job.spec.distribution.num_nodes, job.spec.distribution.num_processes = nodes, 8
    return manifests.Plan(
        settings=parse_settings(document),
        job=job,
        attempt=3,
        token="the-token",
        addresses={"data_address": "data:50051", "training_address": "training:50051"},
        step_timeout_seconds=60.0,
        metrics_port=9090,
    )


def objects(document: dict) -> list[dict]:
    made = manifests.job_manifest(plan(document))
    owner = {"metadata": {"uid": "1234"}}
    return [
        made,
        manifests.secret_manifest(plan(document), owner=owner),
        manifests.service_manifest(plan(document), owner=owner),
    ]


def pod_spec(document: dict) -> dict:
    return manifests.job_manifest(plan(document))["spec"]["template"]["spec"]


@pytest.mark.parametrize("version", ["1.33", "1.37"])
@pytest.mark.parametrize("document", [MINIMAL, FULL], ids=["minimal", "full"])
def test_every_object_is_valid(version, document):
    for item in objects(document):
        kubernetes_validate.validate(item, version, strict=True)


@pytest.mark.parametrize("document", [MINIMAL, FULL], ids=["minimal", "full"])
def test_pods_meet_the_restricted_pod_security_standard(document):
    spec = pod_spec(document)
    for forbidden in ("hostNetwork", "hostPID", "hostIPC"):
        assert forbidden not in spec
    assert spec["automountServiceAccountToken"] is False
    security = spec["securityContext"]
    assert security["runAsNonRoot"] is True and security["runAsUser"] > 0
    assert security["seccompProfile"] == {"type": "RuntimeDefault"}
    for container in spec["containers"]:
        own = container["securityContext"]
        assert own["allowPrivilegeEscalation"] is False and own["readOnlyRootFilesystem"] is True
        assert own["capabilities"] == {"drop": ["ALL"]}
        assert not any("hostPort" in port for port in container["ports"])
    allowed = {"emptyDir", "secret", "persistentVolumeClaim"}
    assert all(set(volume) - {"name"} <= allowed for volume in spec["volumes"])


def test_everything_written_to_is_a_volume():
    container = pod_spec(FULL)["containers"][0]
    writable = {m["mountPath"] for m in container["volumeMounts"] if not m.get("readOnly")}
    assert writable == {"/workspace", "/tmp", "/dev/shm"}
    names = {mount["name"] for mount in container["volumeMounts"]}
    assert names == {volume["name"] for volume in pod_spec(FULL)["volumes"]}


def test_the_operators_settings_reach_the_pods():
    spec, job = pod_spec(FULL), manifests.job_manifest(plan(FULL))
    container = spec["containers"][0]
    assert container["resources"]["limits"] == {"cpu": "4", "memory": "8Gi", "nvidia.com/gpu": "8"}
    assert container["resources"]["requests"]["nvidia.com/gpu"] == "8"
    assert job["metadata"]["labels"][manifests.KUEUE_LABEL] == "team-a"
    for key in ("nodeSelector", "tolerations", "affinity", "priorityClassName", "runtimeClassName"):
        assert spec[key] == FULL[key]
    workspace = next(m for m in container["volumeMounts"] if m["name"] == "workspace")
    assert workspace["subPath"] == UID
    environment = {item["name"]: item.get("value") for item in container["env"]}
    assert environment["OMNIALIGN_PEER_CA_FILE"] == "/etc/omnialign/tls/ca.crt"
    assert environment["OMNIALIGN_PEER_KEY_FILE"] == "/etc/omnialign/tls/tls.key"
    assert environment["NCCL_DEBUG"] == "WARN"


def test_settings_cannot_take_the_labels_that_the_service_finds_its_objects_by():
    assert manifests.job_manifest(plan(FULL))["metadata"]["labels"][manifests.UID_LABEL] == UID


def test_the_job_fails_at_once_on_a_bad_spec_and_an_eviction_does_not_count():
    spec = manifests.job_manifest(plan(MINIMAL))["spec"]
    assert (spec["completionMode"], spec["completions"], spec["parallelism"]) == ("Indexed", 2, 2)
    assert (spec["backoffLimit"], spec["suspend"]) == (0, True)
    actions = [
        (rule["action"], rule.get("onExitCodes", {}).get("values")) for rule in spec["podFailurePolicy"]["rules"]
    ]
    assert actions == [("FailJob", [65]), ("Ignore", None), ("Ignore", [75])]


def test_the_token_is_in_the_secret_and_nowhere_else():
    job, secret, service = objects(FULL)
    assert "the-token" not in json.dumps([job, service])
    document = PodDocument(**json.loads(base64.b64decode(secret["data"]["document.json"])))
    assert document.spec["token"] == "the-token"
    assert (document.num_nodes, document.num_processes, document.attempt) == (2, 8, 3)


def test_host_names_of_pods_fit_into_a_label():
    longest = f"{plan(MINIMAL).name}-255"
    assert len(longest) <= 63


def test_only_a_job_without_a_queue_is_let_go_by_the_service():
    assert manifests.ready_patch(KubernetesSettings(image="i"))["spec"] == {"suspend": False}
    assert "spec" not in manifests.ready_patch(KubernetesSettings(image="i", queue="q"))
