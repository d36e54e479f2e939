"""What the training service tells a pod: one JSON document, mounted from a Secret because it holds the job's token."""

import json
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

from omnialign.errors import InvalidArgument


@dataclass(frozen=True, kw_only=True)
class PodDocument:
    """One attempt of a job, the same for each of its pods."""

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
    deliver_seconds: float
    spec: dict[str, Any]
    """The run's spec, as `training.spec` reads it, without the folders, which the pod knows."""

    def to_json(self) -> dict[str, Any]:
        """The document as JSON knows it."""
        return asdict(self)


def read_document(path: Path) -> PodDocument:
    """The document in a file. Raises `InvalidArgument` (POD_DOCUMENT_INVALID)."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        known = {item.name for item in fields(PodDocument)}
        return PodDocument(**{key: value for key, value in found.items() if key in known})
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise InvalidArgument(f"{path} is not a document of a job: {error}", reason="POD_DOCUMENT_INVALID") from error
