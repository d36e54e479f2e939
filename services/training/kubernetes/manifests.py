"""The objects of one attempt: an Indexed Job, and the Secret and the headless Service that it owns.

Pure functions of a job, an attempt and the settings. All three objects share one name, made of the job's uid and the
number of the attempt, so creating them twice gives a conflict and never a second set.
"""

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from omnialign import names
from omnialign.v1.training_service_pb2 import TrainingJob
from services.training.job_directory import spec_settings
from services.training.kubernetes.settings import KubernetesSettings
from services.training.launcher import token_digest
from training.launch import EXIT_FAILED, EXIT_STOPPED
from training.pod_paths import PodDocument

Object = dict[str, Any]

CONTAINER = "trainer"
COMPONENT, MANAGER = "trainer", "omnialign-training"
INSTANCE_LABEL, MANAGER_LABEL = "app.kubernetes.io/instance", "app.kubernetes.io/managed-by"
UID_LABEL, ATTEMPT_LABEL = "omnialign.io/job-uid", "omnialign.io/attempt"
PROJECT_LABEL, JOB_LABEL = "omnialign.io/project", "omnialign.io/training-job"
DIGEST_ANNOTATION, READY_ANNOTATION, NAME_ANNOTATION = (
    "omnialign.io/token-sha256",
    "omnialign.io/ready",
    "omnialign.io/job",
)
KUEUE_LABEL = "kueue.x-k8s.io/queue-name"
POD_JOB_LABEL = "batch.kubernetes.io/job-name"
DOCUMENT_DIR, DOCUMENT_KEY = "/etc/omnialign/job", "document.json"
TLS_DIR, WORKSPACE_DIR, SCRATCH_DIR = "/etc/omnialign/tls", "/workspace", "/tmp"  # noqa: S108 - a volume of the pod
METRICS_PORT_NAME = "metrics"


@dataclass(frozen=True)
class Plan:
    """What manifests are made from."""

    settings: KubernetesSettings
    job: TrainingJob
    attempt: int
    token: str
    addresses: Mapping[str, str]
    """The services that the job calls, by their keys in its spec."""
    step_timeout_seconds: float
    metrics_port: int | None = None

    @property
    def name(self) -> str:
        """The name of the attempt's objects."""
        return name_of(self.job, self.attempt)

    @property
    def num_nodes(self) -> int:
        """Pods of the Job."""
        return max(self.job.spec.distribution.num_nodes, 1)


def name_of(job: TrainingJob, attempt: int) -> str:
    """The name of an attempt's objects: at most 43 characters, so that `NAME-INDEX` is a host name."""
    return f"train-{re.sub('[^0-9a-f]', '', job.uid.lower())}-{attempt}"


def selector(settings: KubernetesSettings) -> str:
    """The label selector of the Jobs and pods of this installation."""
    return f"{MANAGER_LABEL}={MANAGER},{INSTANCE_LABEL}={settings.instance}"


def labels(settings: KubernetesSettings, job: TrainingJob, attempt: int) -> dict[str, str]:
    """The labels of an attempt's objects and pods."""
    ids = names.parse(job.name, names.TRAINING_JOB)
    own = {
        "app.kubernetes.io/name": "omnialign",
        "app.kubernetes.io/component": COMPONENT,
        INSTANCE_LABEL: settings.instance,
        MANAGER_LABEL: MANAGER,
        UID_LABEL: job.uid,
        ATTEMPT_LABEL: str(attempt),
        PROJECT_LABEL: ids["project"].rstrip("-"),  # an id may end with a hyphen, a label may not
        JOB_LABEL: ids["training_job"],
    }
    return settings.labels | own


def job_manifest(plan: Plan) -> Object:
    """The Job, suspended: its pods may start only when their Secret exists.

    The first failure of a pod fails the Job, and the training service starts a new attempt, with a rendezvous of its
    own, if the job's spec allows one. Within the Job, Kubernetes replaces only pods that did not fail: those that were
    evicted, and those that stopped on request with a checkpoint.
    """
    settings = plan.settings
    own = labels(settings, plan.job, plan.attempt)
    annotations = {DIGEST_ANNOTATION: token_digest(plan.token), NAME_ANNOTATION: plan.job.name}
    queue = {KUEUE_LABEL: settings.queue} if settings.queue else {}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": plan.name, "labels": own | queue, "annotations": annotations},
        "spec": {
            "completionMode": "Indexed",
            "completions": plan.num_nodes,
            "parallelism": plan.num_nodes,
            "backoffLimit": 0,
            "podReplacementPolicy": "Failed",
            "podFailurePolicy": _failure_policy(),
            "suspend": True,
            "activeDeadlineSeconds": settings.deadlines.run_seconds,
            "ttlSecondsAfterFinished": settings.ttl_seconds,
            "template": {
                "metadata": {"labels": own, "annotations": dict(settings.annotations)},
                "spec": _pod_spec(plan),
            },
        },
    }


def secret_manifest(plan: Plan, *, owner: Object) -> Object:
    """The Secret with the document that the pods read; the job's token is in it."""
    text = base64.b64encode(json.dumps(_document(plan).to_json()).encode()).decode()
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": _owned(plan, owner),
        "type": "Opaque",
        "immutable": True,
        "data": {DOCUMENT_KEY: text},
    }


def service_manifest(plan: Plan, *, owner: Object) -> Object:
    """The headless Service that makes `NAME-0.NAME` resolve to the first pod, ready or not."""
    port = plan.settings.rendezvous_port
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": _owned(plan, owner),
        "spec": {
            "clusterIP": "None",
            "publishNotReadyAddresses": True,
            "selector": {POD_JOB_LABEL: plan.name},
            "ports": [{"name": "rendezvous", "port": port, "targetPort": port, "protocol": "TCP"}],
        },
    }


def ready_patch(settings: KubernetesSettings) -> Object:
    """Marks an attempt's objects as complete, and lets the pods start unless Kueue will."""
    patch: Object = {"metadata": {"annotations": {READY_ANNOTATION: "true"}}}
    if not settings.queue:
        patch["spec"] = {"suspend": False}
    return patch


def _owned(plan: Plan, owner: Object) -> Object:
    reference = {"apiVersion": "batch/v1", "kind": "Job", "name": plan.name, "uid": owner["metadata"]["uid"]}
    return {
        "name": plan.name,
        "labels": labels(plan.settings, plan.job, plan.attempt),
        # Blocking: once the Job is gone, so are its Secret and Service, and the name is free.
        "ownerReferences": [{**reference, "controller": True, "blockOwnerDeletion": True}],
    }


def _failure_policy() -> Object:
    """Rules in order, of which the first that matches decides; a pod that matches none fails the Job at once."""

    def exits(code: int) -> Object:
        return {"containerName": CONTAINER, "operator": "In", "values": [code]}

    return {
        "rules": [
            {"action": "FailJob", "onExitCodes": exits(EXIT_FAILED)},
            {"action": "Ignore", "onPodConditions": [{"type": "DisruptionTarget", "status": "True"}]},
            {"action": "Ignore", "onExitCodes": exits(EXIT_STOPPED)},
        ]
    }


def _pod_spec(plan: Plan) -> Object:
    settings, user = plan.settings, plan.settings.run_as_user
    spec: Object = {
        "restartPolicy": "Never",
        "subdomain": plan.name,
        "serviceAccountName": settings.service_account_name,
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        "terminationGracePeriodSeconds": settings.deadlines.termination_seconds,
        "securityContext": {
            "runAsNonRoot": True,
            "runAsUser": user,
            "runAsGroup": user,
            "fsGroup": user,
            "fsGroupChangePolicy": "OnRootMismatch",
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "containers": [_container(plan)],
        "volumes": _volumes(plan),
    }
    optional = {
        "imagePullSecrets": [{"name": name} for name in settings.image_pull_secrets],
        "nodeSelector": dict(settings.node_selector),
        "tolerations": list(settings.tolerations),
        "affinity": dict(settings.affinity),
        "topologySpreadConstraints": list(settings.topology_spread_constraints),
        "priorityClassName": settings.priority_class_name,
        "runtimeClassName": settings.runtime_class_name,
    }
    return spec | {key: value for key, value in optional.items() if value}


def _container(plan: Plan) -> Object:
    settings = plan.settings
    gpus = {settings.gpu_resource: str(settings.gpus)} if settings.gpus else {}
    container: Object = {
        "name": CONTAINER,
        "image": settings.image,
        "imagePullPolicy": settings.image_pull_policy,
        "command": ["python", "-m", "training.pod"],
        "env": _environment(plan),
        "ports": [{"name": "rendezvous", "containerPort": settings.rendezvous_port}],
        "resources": {
            "requests": settings.resources.requests | gpus,
            "limits": settings.resources.limits | gpus,
        },
        # Where the program could not write an error, as when it was killed, the log's last lines stand in for it.
        "terminationMessagePolicy": "FallbackToLogsOnError",
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "readOnlyRootFilesystem": True,
        },
        "volumeMounts": _mounts(plan),
    }
    if plan.metrics_port:
        container["ports"].append({"name": METRICS_PORT_NAME, "containerPort": plan.metrics_port})
    return container


def _environment(plan: Plan) -> list[Object]:
    own = {
        "OMNIALIGN_POD_DOCUMENT": f"{DOCUMENT_DIR}/{DOCUMENT_KEY}",
        "OMNIALIGN_POD_WORKSPACE": WORKSPACE_DIR,
        "OMNIALIGN_POD_SCRATCH": SCRATCH_DIR,
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
        # Libraries derive their cache folders from the user's name and home, and the image has no such user.
        "HOME": SCRATCH_DIR,
        "TMPDIR": SCRATCH_DIR,
        "USER": "omnialign",
        "LOGNAME": "omnialign",
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": f"{SCRATCH_DIR}/huggingface",
        "TRITON_CACHE_DIR": f"{SCRATCH_DIR}/triton",
    }
    tls = plan.settings.tls
    if tls.secret_name:
        own["OMNIALIGN_PEER_CA_FILE"] = f"{TLS_DIR}/{tls.ca_key}"
        if tls.certificate_key:
            own["OMNIALIGN_PEER_CERTIFICATE_FILE"] = f"{TLS_DIR}/{tls.certificate_key}"
            own["OMNIALIGN_PEER_KEY_FILE"] = f"{TLS_DIR}/{tls.key_key}"
    if plan.metrics_port:
        own["OMNIALIGN_TRAINING_METRICS_PORT"] = str(plan.metrics_port)
        own["OMNIALIGN_TRAINING_METRICS_HOST"] = "0.0.0.0"  # noqa: S104 - scraped from outside the pod
    cpus = {"resourceFieldRef": {"containerName": CONTAINER, "resource": "limits.cpu", "divisor": "1"}}
    named = [{"name": name, "value": value} for name, value in (plan.settings.env | own).items()]
    return [*named, {"name": "OMNIALIGN_POD_CPUS", "valueFrom": cpus}]


def _volumes(plan: Plan) -> list[Object]:
    settings = plan.settings
    claim = settings.workspace.claim
    workspace: Object = (
        {"persistentVolumeClaim": {"claimName": claim}}
        if claim
        else {"emptyDir": {"sizeLimit": settings.workspace.size}}
    )
    found: list[Object] = [
        {"name": "document", "secret": {"secretName": plan.name, "defaultMode": 0o440}},
        {"name": "workspace", **workspace},
        {"name": "scratch", "emptyDir": {"sizeLimit": settings.scratch_size}},
        {"name": "shm", "emptyDir": {"medium": "Memory", "sizeLimit": str(settings.shm_bytes)}},
    ]
    if settings.tls.secret_name:
        found.append({"name": "tls", "secret": {"secretName": settings.tls.secret_name, "defaultMode": 0o440}})
    return found


def _mounts(plan: Plan) -> list[Object]:
    workspace: Object = {"name": "workspace", "mountPath": WORKSPACE_DIR}
    if plan.settings.workspace.claim:
        workspace["subPath"] = plan.job.uid
    found: list[Object] = [
        {"name": "document", "mountPath": DOCUMENT_DIR, "readOnly": True},
        workspace,
        {"name": "scratch", "mountPath": SCRATCH_DIR},
        {"name": "shm", "mountPath": "/dev/shm"},  # noqa: S108 - a volume of the pod
    ]
    if plan.settings.tls.secret_name:
        found.append({"name": "tls", "mountPath": TLS_DIR, "readOnly": True})
    return found


def _document(plan: Plan) -> PodDocument:
    settings, spec = plan.settings, plan.job.spec
    return PodDocument(
        job=plan.job.name,
        uid=plan.job.uid,
        attempt=plan.attempt,
        method=spec.method,
        base_model=spec.base_model,
        num_nodes=plan.num_nodes,
        num_processes=max(spec.distribution.num_processes, 1),
        host_pattern=f"{plan.name}-{{index}}.{plan.name}",
        rendezvous_port=settings.rendezvous_port,
        rendezvous_seconds=float(settings.deadlines.rendezvous_seconds),
        deliver_seconds=float(settings.deadlines.deliver_seconds),
        abandoned_seconds=float(settings.deadlines.abandoned_seconds),
        spec={
            "job": plan.job.name,
            "token": plan.token,
            **plan.addresses,
            "step_timeout_seconds": plan.step_timeout_seconds,
            **spec_settings(spec),
        },
    )
