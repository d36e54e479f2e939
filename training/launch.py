"""How a run is started, and how it tells its starter how it ended: the contract between the two.

Started: torchrun's command line, alone or as one node of several, and an environment without secrets. Ended: an exit
code, a typed error in `error.json`, and in a cluster the termination message of the pod.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from google.protobuf import json_format
from google.rpc import status_pb2

from omnialign.errors import OmnialignError, from_status, to_status
from training.files import write_atomically

EXIT_CRASHED = 1
"""A failure that another attempt may not meet; its error is in `error.json` if it could be written."""
EXIT_FAILED = 65
"""A typed failure; its error is in `error.json`."""
EXIT_STALLED = 70
"""The watchdog gave up; the stacks are on standard error."""
EXIT_STOPPED = 75
"""Stopped on request; a checkpoint was written, from which the run can go on."""

ERROR_FILE = "error.json"
EXIT_VARIABLE = "OMNIALIGN_TRAINING_EXIT_FILE"
"""Names a file for the run's exit code, because torchrun turns any but 0 into 1."""
TERMINATION_BYTES = 4000
"""A little less than the 4096 bytes that Kubernetes keeps of a termination message."""
SERVICE_VARIABLE = "OMNIALIGN_TRAINING_SERVICE_PROCESS"
"""Holds the id of the service's process, without which the run is not to go on."""
MESSAGE_CHARACTERS, LINE_CHARACTERS = 1000, 300

TLS_VARIABLES = ("OMNIALIGN_PEER_CA_FILE", "OMNIALIGN_PEER_CERTIFICATE_FILE", "OMNIALIGN_PEER_KEY_FILE")
"""Name the files of the certificate authority, of the run's certificate, and of its key."""
KEPT = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "TZ", "PYTHONPATH", "USER",
    "LOGNAME", "HF_HOME", "TRITON_CACHE_DIR", EXIT_VARIABLE, *TLS_VARIABLES,
)  # fmt: skip
"""Variables that a run inherits. Certificates are among them, tokens are not: the spec holds the job's own."""
KEPT_PREFIXES = (
    "CUDA_", "NVIDIA_", "NCCL_", "GLOO_", "OMNIALIGN_TRAINING_METRICS_", "OMNIALIGN_ENGINE_FEATURE_CACHE",
)  # fmt: skip

SINGLE_NODE = ("--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1")
"""Port 0 lets the rendezvous take a free port, and loopback works even where a machine's own name does not resolve."""


@dataclass(frozen=True)
class Node:
    """One node of several, and where it meets the others."""

    count: int
    """Nodes of the run."""
    index: int
    """Number of this node; 0 hosts the rendezvous."""
    endpoint: str
    """`host:port` of the rendezvous."""
    address: str
    """Host name or address at which the others reach this node. torchrun sorts the nodes by this text and puts rank 0
    on the first, so that of node 0 must sort first."""
    run_id: str
    """Keeps the nodes of one attempt from meeting those of another."""
    timeout_seconds: float
    """How long the nodes wait for one another."""


def command(
    method: str, *, spec_path: Path, num_processes: int, python: str = sys.executable, node: Node | None = None
) -> list[str]:
    """The argument list that starts a run with `num_processes` processes on this node."""
    count = node.count if node else 1
    torchrun = ["-m", "torch.distributed.run", "--nnodes", str(count), "--nproc-per-node", str(num_processes)]
    meeting = _meeting(node) if node and count > 1 else SINGLE_NODE
    # No restarts by torchrun: a new attempt goes on from a checkpoint, and only the service counts attempts.
    rendezvous = ["--rdzv-backend", "c10d", *meeting, "--max-restarts", "0"]
    return [python, *torchrun, *rendezvous, "-m", "training", method, "--spec", str(spec_path)]


def _meeting(node: Node) -> list[str]:
    # torchrun would guess who hosts by comparing host names, which fails on a pod's short name: say it outright.
    settings = f"is_host={int(node.index == 0)},join_timeout={node.timeout_seconds:.0f},read_timeout=120"
    where = ["--rdzv-endpoint", node.endpoint, "--rdzv-id", node.run_id, "--rdzv-conf", settings]
    return [*where, "--local-addr", node.address]


def environment(inherited: Mapping[str, str], *, num_processes: int, num_cpus: int) -> dict[str, str]:
    """The environment of a run: what it needs of `inherited`, no secrets, no access to model hubs."""
    kept = {k: v for k, v in inherited.items() if k in KEPT or k.startswith(KEPT_PREFIXES)}
    return kept | {
        "OMP_NUM_THREADS": str(max(num_cpus // max(num_processes, 1), 1)),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }


def write_failure(output_dir: Path, error: OmnialignError) -> None:
    """Leaves an error where `read_failure` finds it."""
    write_atomically(output_dir / ERROR_FILE, json_format.MessageToJson(to_status(error)).encode())


def read_failure(output_dir: Path) -> OmnialignError | None:
    """The error that a run left, or None."""
    try:
        status = json_format.Parse((output_dir / ERROR_FILE).read_bytes(), status_pb2.Status())
    except (OSError, json_format.ParseError):
        return None
    return from_status(status)


def clear_failure(output_dir: Path) -> None:
    """Removes the error of an earlier attempt."""
    (output_dir / ERROR_FILE).unlink(missing_ok=True)


def note_exit(code: int) -> None:
    """Writes the exit code to the file that `EXIT_VARIABLE` names, if any; one process of each node does so."""
    if (path := os.environ.get(EXIT_VARIABLE)) and os.environ.get("LOCAL_RANK", "0") == "0":
        write_atomically(Path(path), str(code).encode())


def noted_exit(path: Path) -> int | None:
    """The exit code that a run noted, or None."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def write_termination(path: Path, error: OmnialignError, *, log_tail: Sequence[str]) -> None:
    """Leaves an error and the last log lines as the pod's termination message, cut to what Kubernetes keeps of it.

    Not atomic, because the file is a mount of its own and cannot be replaced. A file that cannot be written is
    ignored: the exit code still tells how the pod ended.
    """
    short = type(error)(error.message[:MESSAGE_CHARACTERS], reason=error.reason, metadata=error.metadata)
    lines = [line[:LINE_CHARACTERS] for line in log_tail]
    # Shed the oldest log lines first, then the error's metadata; reason and message always fit.
    while True:
        document = {"status": json_format.MessageToDict(to_status(short)), "log_tail": lines}
        data = json.dumps(document).encode()
        if len(data) <= TERMINATION_BYTES:
            break
        if lines:
            lines = lines[1:]
        else:
            short = type(error)(short.message, reason=error.reason)
    try:
        path.write_bytes(data)
    except OSError:
        return
