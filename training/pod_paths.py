"""What a pod of a training job is given: a document from the training service, and folders from Kubernetes."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from omnialign import names
from omnialign.errors import InvalidArgument
from training.launch import Node

TERMINATION_LOG = Path("/dev/termination-log")


@dataclass(frozen=True, kw_only=True)
class PodDocument:
    """One attempt of a job, the same for each of its pods. Mounted from a Secret, because it holds the job's token."""

    job: str
    """Resource name of the job."""
    uid: str
    attempt: int
    """Counts from 1; with the uid it makes the id of the rendezvous."""
    method: str
    base_model: str
    """Resource name of the model version to start from."""
    num_nodes: int
    num_processes: int
    """Processes of each node."""
    host_pattern: str
    """Host name of a pod, with `{index}` for its number."""
    rendezvous_port: int
    rendezvous_seconds: float
    """How long the nodes wait for one another."""
    deliver_seconds: float
    """How long delivering the model may take, retries included."""
    abandoned_seconds: float = 600.0
    """How long the pod goes on without an answer of the training service."""
    spec: dict[str, Any]
    """The run's spec as `training.spec` reads it, without the folders, which only the pod knows."""

    def to_json(self) -> dict[str, Any]:
        """The document as JSON values."""
        return asdict(self)


def read_document(path: Path) -> PodDocument:
    """The document in a file. Raises `InvalidArgument` (POD_DOCUMENT_INVALID).

    Unknown keys are skipped, because a newer service may start an older image.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        known = {item.name for item in fields(PodDocument)}
        return PodDocument(**{key: value for key, value in found.items() if key in known})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InvalidArgument(f"{path} is not a document of a job: {error}", reason="POD_DOCUMENT_INVALID") from error


@dataclass(frozen=True)
class PodPaths:
    """Where one pod finds and leaves things, and how it meets the others."""

    document: Path
    """The file that says what to do."""
    workspace: Path
    """Folder of checkpoints and examples; outlives the pod if the operator gave it a claim."""
    scratch: Path
    """Folder of what can be had again: the base model, the spec."""
    index: int
    """Number of the pod among those of the job."""
    num_cpus: int
    rendezvous: str
    """`host:port` of the rendezvous; empty means the first pod's."""
    address: str
    """Where other pods reach this one; empty means by its host name."""
    termination_log: Path

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> "PodPaths":
        """What `OMNIALIGN_POD_*` and Kubernetes' own variables say. Raises KeyError and ValueError."""
        return cls(
            document=Path(environ["OMNIALIGN_POD_DOCUMENT"]),
            workspace=Path(environ["OMNIALIGN_POD_WORKSPACE"]),
            scratch=Path(environ["OMNIALIGN_POD_SCRATCH"]),
            index=int(environ.get("JOB_COMPLETION_INDEX", "0")),
            num_cpus=int(environ.get("OMNIALIGN_POD_CPUS", "0")) or os.cpu_count() or 1,
            rendezvous=environ.get("OMNIALIGN_POD_RENDEZVOUS", ""),
            address=environ.get("OMNIALIGN_POD_ADDRESS", ""),
            termination_log=Path(environ.get("OMNIALIGN_POD_TERMINATION_LOG", TERMINATION_LOG)),
        )

    @property
    def is_first(self) -> bool:
        """Whether this pod speaks for the job."""
        return self.index == 0

    @property
    def output(self) -> Path:
        """What the run writes: checkpoints, progress, the finished model."""
        return self.workspace / "output"

    @property
    def cache(self) -> Path:
        """The examples and the bytes of their media."""
        return self.workspace / "cache"

    @property
    def spec(self) -> Path:
        """The run's spec, with the token in it."""
        return self.scratch / "spec" / "job.yaml"

    @property
    def exit_file(self) -> Path:
        """Where the run notes its exit code."""
        return self.scratch / "spec" / "exit-code"

    def base_model(self, name: str) -> Path:
        """The folder of model version `name`; metrics show its last part, which therefore names the version."""
        if not names.matches(name, names.MODEL_VERSION):
            return self.scratch / "models" / "base"
        ids = names.parse(name, names.MODEL_VERSION)
        return self.scratch / "models" / f"{ids['model']}-{ids['version']}"

    def node(self, document: PodDocument) -> Node:
        """This pod's part in the rendezvous."""
        first = f"{document.host_pattern.format(index=0)}:{document.rendezvous_port}"
        return Node(
            count=document.num_nodes,
            index=self.index,
            endpoint=self.rendezvous or first,
            address=self.address or document.host_pattern.format(index=self.index),
            run_id=f"{document.uid}-{document.attempt}",
            timeout_seconds=document.rendezvous_seconds,
        )
