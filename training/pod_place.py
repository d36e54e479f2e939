"""Where a pod finds and leaves things, as its environment says."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from training.launch import Node
from training.pod_document import PodDocument

TERMINATION_LOG = Path("/dev/termination-log")


@dataclass(frozen=True)
class Place:
    """The surroundings of one pod."""

    document: Path
    """The file that says what to do."""
    workspace: Path
    """Folder of checkpoints and examples; survives the pod when the operator gave it a claim."""
    scratch: Path
    """Folder of what can be had again: the base model, the spec."""
    index: int
    """Number of the pod among those of the job."""
    num_cpus: int
    rendezvous: str
    """`host:port`, when it is not the first pod's."""
    address: str
    """Where other pods reach this one, when not by its name."""
    termination_log: Path

    @classmethod
    def of(cls, environ: Mapping[str, str]) -> "Place":
        """The place that `OMNIALIGN_POD_*` and Kubernetes' own variables describe. Raises KeyError and ValueError."""
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
        """Whether this is the pod that speaks for the job."""
        return self.index == 0

    @property
    def output(self) -> Path:
        """What the run writes: checkpoints, progress, the finished model."""
        return self.workspace / "output"

    @property
    def cache(self) -> Path:
        """The examples."""
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
        """Where a model version lies; the folder's name tells which it is."""
        parts = name.split("/")
        return self.scratch / "models" / "-".join([*parts[3:4], *parts[5:6]] or ["base"])

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
