"""What the operator decides about the pods of training jobs: one YAML file, read strictly and once.

Keys are camelCase, like everything else in a cluster. An unknown key is an error that names the nearest known one, and
all problems of the file are reported at once: a misspelt toleration would otherwise show as a pod that waits for ever.
Parts that Kubernetes itself defines (tolerations, affinity) are passed on unchanged; the API server validates them.
"""

import difflib
import re
import typing
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from omnialign.errors import InvalidArgument

Problems = list[tuple[str, str]]


@dataclass(frozen=True, kw_only=True)
class Resources:
    """What a pod asks for besides GPUs; quantities as Kubernetes writes them (`500m`, `4Gi`)."""

    requests: dict[str, str] = field(default_factory=lambda: {"cpu": "1", "memory": "4Gi"})
    """What the scheduler reserves."""
    limits: dict[str, str] = field(default_factory=lambda: {"memory": "8Gi"})
    """The most that a pod may use; one that exceeds its memory is killed (OOM_KILLED)."""


@dataclass(frozen=True, kw_only=True)
class Workspace:
    """Where a job's checkpoints and examples are kept while it runs."""

    claim: str = ""
    """Name of an existing PersistentVolumeClaim; each job gets a folder of its own on it (`subPath`), and goes on from
    its newest checkpoint after an eviction. Jobs of several nodes need a claim that is ReadWriteMany. Empty means
    a volume that lives as long as the pod: an evicted job starts again from its first step."""
    size: str = "20Gi"
    """Size limit of the volume that lives as long as the pod; not used with a claim."""


@dataclass(frozen=True, kw_only=True)
class Deadlines:
    """How long things may take, in seconds."""

    run_seconds: int = 86_400
    """From the Job's start to its end, waiting for a node included; after that it is FAILED (DEADLINE_EXCEEDED)."""
    start_seconds: int = 0
    """How long an image, the scheduler or a quota may keep a job's pods from running before it is FAILED with that
    reason; 0 means as long as it takes. Waiting in Kueue's queue does not count."""
    rendezvous_seconds: int = 1_800
    """How long the nodes of a job wait for one another."""
    termination_seconds: int = 60
    """How long a pod has to write a checkpoint after it was told to end."""
    deliver_seconds: int = 3_600
    """How long the finished model may take to be delivered, retries included."""
    abandoned_seconds: int = 600
    """How long a job goes on without an answer of the training service. Then it writes a checkpoint and is FAILED
    (SERVICE_GONE): nobody would take its model."""


@dataclass(frozen=True, kw_only=True)
class Tls:
    """The certificates that job pods use towards the data and the training service."""

    secret_name: str = ""
    """Secret to mount, such as one that cert-manager writes; empty means no TLS."""
    ca_key: str = "ca.crt"
    """Key of the certificate authority in that Secret."""
    certificate_key: str = "tls.crt"
    """Key of the client certificate; empty means that none is presented (TLS without mTLS)."""
    key_key: str = "tls.key"
    """Key of the client certificate's private key."""


@dataclass(frozen=True, kw_only=True)
class KubernetesSettings:
    """The whole file that `OMNIALIGN_TRAINING_KUBERNETES_FILE` names."""

    image: str
    """Image of the trainer. Required."""
    image_pull_policy: Literal["IfNotPresent", "Always", "Never"] = "IfNotPresent"
    """When the kubelet pulls the image."""
    image_pull_secrets: tuple[str, ...] = ()
    """Names of the Secrets with the registry's credentials."""
    namespace: str = ""
    """Where Jobs are created; empty means the training service's own namespace."""
    kubeconfig: str = ""
    """Path of a kubeconfig file; empty means the service account of the pod that the service runs in."""
    instance: str = "omnialign"
    """Tells the Jobs of this installation from those of another in the same namespace (label
    `app.kubernetes.io/instance`): at its start the service deletes Jobs of its instance that it does not know."""
    service_account_name: str = "default"
    """Service account of job pods; its token is never mounted."""
    labels: dict[str, str] = field(default_factory=dict)
    """Additional labels of Jobs and pods."""
    annotations: dict[str, str] = field(default_factory=dict)
    """Annotations of pods."""
    resources: Resources = field(default_factory=Resources)
    """What each pod asks for besides GPUs."""
    gpus: int = 0
    """GPUs of each pod."""
    gpu_resource: str = "nvidia.com/gpu"
    """Name of the extended resource that stands for GPUs."""
    node_selector: dict[str, str] = field(default_factory=dict)
    """Labels that a node must have."""
    tolerations: tuple[dict[str, Any], ...] = ()
    """Taints that the pods tolerate, as in a PodSpec."""
    affinity: dict[str, Any] = field(default_factory=dict)
    """Affinity as in a PodSpec."""
    topology_spread_constraints: tuple[dict[str, Any], ...] = ()
    """Topology spread constraints as in a PodSpec."""
    priority_class_name: str = ""
    """Priority class of the pods; empty means the cluster's default."""
    runtime_class_name: str = ""
    """Runtime class of the pods, such as `nvidia` where GPUs need one; empty means the cluster's default."""
    queue: str = ""
    """Kueue's LocalQueue. If set, Jobs are created suspended and Kueue starts them."""
    shm_bytes: int = 1_073_741_824
    """Limit of /dev/shm, which is memory of the pod; NCCL and data loaders need it."""
    scratch_size: str = "50Gi"
    """Size limit of /tmp, which holds the base model."""
    workspace: Workspace = field(default_factory=Workspace)
    """Where checkpoints are kept."""
    deadlines: Deadlines = field(default_factory=Deadlines)
    """How long things may take."""
    ttl_seconds: int = 86_400
    """How long an ended Job, with its pods and their logs, stays in the cluster."""
    tls: Tls = field(default_factory=Tls)
    """The certificates of job pods."""
    env: dict[str, str] = field(default_factory=dict)
    """Additional environment variables of the pods, such as NCCL_DEBUG."""
    run_as_user: int = 10_001
    """User and group id of the pods, and the group that their volumes belong to."""
    rendezvous_port: int = 29_500
    """Port of torchrun's rendezvous on the first pod."""


_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")
_QUANTITY = re.compile(r"\d+(\.\d+)?([numkKMGTPE]i?)?")
_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


def read_settings(path: Path) -> KubernetesSettings:
    """The settings in a YAML file. Raises `InvalidArgument` (KUBERNETES_FILE_INVALID) with every problem found."""
    try:
        document = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise _invalid([(str(path), f"cannot be read as YAML: {error}")]) from error
    return parse_settings(document)


def parse_settings(document: object) -> KubernetesSettings:
    """The settings in a parsed document. Raises `InvalidArgument` (KUBERNETES_FILE_INVALID) with every problem."""
    problems: Problems = []
    settings = _build(KubernetesSettings, document, path="", problems=problems)
    if not problems:
        problems += _contradictions(typing.cast(KubernetesSettings, settings))
    if problems:
        raise _invalid(problems)
    return typing.cast(KubernetesSettings, settings)


def key_of(name: str) -> str:
    """The camelCase key of a field."""
    head, *rest = name.split("_")
    return head + "".join(part.capitalize() for part in rest)


def _invalid(problems: Problems) -> InvalidArgument:
    listed = "; ".join(f"{path}: {problem}" for path, problem in problems)
    return InvalidArgument(
        f"the file of Kubernetes settings is wrong: {listed}",
        reason="KUBERNETES_FILE_INVALID",
        metadata={"problems": listed},
        violations=problems,
    )


def _build(cls: type[Any], document: object, *, path: str, problems: Problems) -> object:
    """An instance of a dataclass from a mapping, or None after noting what is wrong."""
    if not isinstance(document, Mapping):
        problems.append((path.rstrip(".") or "file", "must be a mapping of keys to values"))
        return None
    hints, known = typing.get_type_hints(cls), {key_of(item.name): item for item in fields(cls)}
    before, values = len(problems), {}
    for key in document:
        if key not in known:
            problems.append((f"{path}{key}", _unknown(str(key), list(known))))
    for key, item in known.items():
        if key in document:
            values[item.name] = _value(hints[item.name], document[key], path=f"{path}{key}", problems=problems)
        elif item.default is MISSING and item.default_factory is MISSING:
            problems.append((f"{path}{key}", "is required"))
    return cls(**values) if len(problems) == before else None


def _unknown(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    return f"is not a known key; did you mean `{near[0]}`?" if near else f"is not a known key; known: {sorted(known)}"


def _value(hint: Any, value: object, *, path: str, problems: Problems) -> object:
    """A value of the wanted type, or None after noting what is wrong."""
    if is_dataclass(hint):
        return _build(typing.cast(type[Any], hint), value, path=f"{path}.", problems=problems)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Literal:
        if value in arguments:
            return value
        problems.append((path, f"must be one of {', '.join(map(str, arguments))}, not {value!r}"))
        return None
    if origin is dict:
        return _mapping(arguments[1], value, path=path, problems=problems)
    if origin is tuple:
        return _sequence(arguments[0], value, path=path, problems=problems)
    if hint is int and isinstance(value, float) and value.is_integer():
        value = int(value)  # templates write large numbers as 1e+09
    expected = "a whole number of at least 0" if hint is int else "a string"
    if isinstance(value, bool) or not isinstance(value, hint) or (hint is int and typing.cast(int, value) < 0):
        problems.append((path, f"must be {expected}, not {value!r}"))
        return None
    return value


def _mapping(kind: Any, value: object, *, path: str, problems: Problems) -> object:
    """A mapping of strings to strings, where numbers pass for strings (`cpu: 1`), or of strings to anything."""
    if not isinstance(value, Mapping) or not all(isinstance(key, str) for key in value):
        problems.append((path, "must be a mapping of strings"))
        return None
    if kind is Any:
        return dict(value)
    for key, item in value.items():
        if isinstance(item, bool) or not isinstance(item, str | int | float):
            problems.append((f"{path}.{key}", f"must be a string, not {item!r}"))
    return {key: str(item) for key, item in value.items()}


def _sequence(kind: Any, value: object, *, path: str, problems: Problems) -> object:
    wanted = str if kind is str else Mapping
    if not isinstance(value, list) or not all(isinstance(item, wanted) for item in value):
        problems.append((path, f"must be a list of {'strings' if kind is str else 'mappings'}"))
        return None
    return tuple(value)


def _contradictions(settings: KubernetesSettings) -> Iterator[tuple[str, str]]:
    if not settings.image:
        yield "image", "must not be empty"
    for key, names in _named(settings):
        for name in names:
            if name and not _NAME.fullmatch(name):
                yield key, f"must be the name of a Kubernetes object, not '{name}'"
    yield from _quantities(settings)
    for name in settings.env:
        if not _VARIABLE.fullmatch(name) or name.startswith("OMNIALIGN_"):
            yield f"env.{name}", "must be the name of an environment variable that is not omnialign's own"
    if settings.run_as_user == 0:
        yield "runAsUser", "must not be 0: job pods never run as root"
    if not 1024 <= settings.rendezvous_port <= 65535:
        yield "rendezvousPort", "must be between 1024 and 65535"
    for key in ("run_seconds", "rendezvous_seconds", "termination_seconds", "deliver_seconds", "abandoned_seconds"):
        if getattr(settings.deadlines, key) < 1:
            yield f"deadlines.{key_of(key)}", "must be 1 or more"
    if settings.tls.certificate_key and not settings.tls.key_key:
        yield "tls.keyKey", "must be set when certificateKey is"


def _named(settings: KubernetesSettings) -> Iterator[tuple[str, tuple[str, ...]]]:
    for name in ("namespace", "instance", "service_account_name", "priority_class_name", "runtime_class_name", "queue"):
        yield key_of(name), (getattr(settings, name),)
    yield "imagePullSecrets", settings.image_pull_secrets
    yield "workspace.claim", (settings.workspace.claim,)
    yield "tls.secretName", (settings.tls.secret_name,)


def _quantities(settings: KubernetesSettings) -> Iterator[tuple[str, str]]:
    found = {"workspace.size": settings.workspace.size, "scratchSize": settings.scratch_size}
    for kind, quantities in (("requests", settings.resources.requests), ("limits", settings.resources.limits)):
        found |= {f"resources.{kind}.{name}": quantity for name, quantity in quantities.items()}
        if settings.gpu_resource in quantities:
            yield f"resources.{kind}.{settings.gpu_resource}", "must be set as `gpus`"
    for key, quantity in found.items():
        if not _QUANTITY.fullmatch(quantity):
            yield key, f"must be a quantity such as 500m or 4Gi, not '{quantity}'"
