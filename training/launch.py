"""The command line and environment of a run: torchrun on this machine, alone or as one node of several."""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from training.connection import VARIABLES
from training.failure import EXIT_VARIABLE

KEPT = (
    "PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "TZ", "PYTHONPATH", "USER",
    "LOGNAME", "HF_HOME", "TRITON_CACHE_DIR", EXIT_VARIABLE, *VARIABLES,
)  # fmt: skip
KEPT_PREFIXES = (
    "CUDA_", "NVIDIA_", "NCCL_", "GLOO_", "OMNIALIGN_TRAINING_METRICS_", "OMNIALIGN_ENGINE_FEATURE_CACHE",
)  # fmt: skip

ALONE = ("--rdzv-endpoint", "127.0.0.1:0", "--local-addr", "127.0.0.1")


@dataclass(frozen=True)
class Node:
    """One node of several, and where it meets the others."""

    count: int
    """Nodes of the run."""
    index: int
    """Number of this one; 0 hosts the rendezvous."""
    endpoint: str
    """`host:port` of the rendezvous."""
    address: str
    """Host name or address at which the others reach this node. torchrun numbers the nodes in the order of these texts
    and puts rank 0 on the first, so node 0's must sort first."""
    run_id: str
    """Keeps the nodes of one attempt from meeting those of another."""
    timeout_seconds: float
    """How long the nodes wait for one another."""


def command(
    method: str, *, spec_path: Path, num_processes: int, python: str = sys.executable, node: Node | None = None
) -> list[str]:
    """The argument list that starts a run.

    On one node the rendezvous takes a free port of its own, on loopback: a machine's own name need not resolve.
    """
    count = node.count if node else 1
    torchrun = ["-m", "torch.distributed.run", "--nnodes", str(count), "--nproc-per-node", str(num_processes)]
    meeting = _meeting(node) if node and count > 1 else ALONE
    rendezvous = ["--rdzv-backend", "c10d", *meeting, "--max-restarts", "0"]
    return [python, *torchrun, *rendezvous, "-m", "training", method, "--spec", str(spec_path)]


def _meeting(node: Node) -> list[str]:
    # Told outright who hosts: torchrun would guess it by comparing names, which a pod's short name defeats.
    settings = f"is_host={int(node.index == 0)},join_timeout={node.timeout_seconds:.0f},read_timeout=120"
    where = ["--rdzv-endpoint", node.endpoint, "--rdzv-id", node.run_id, "--rdzv-conf", settings]
    return [*where, "--local-addr", node.address]


def environment(inherited: Mapping[str, str], *, num_processes: int, num_cpus: int) -> dict[str, str]:
    """The environment of a run: what it needs of the caller's, no secrets, no access to model hubs."""
    kept = {k: v for k, v in inherited.items() if k in KEPT or k.startswith(KEPT_PREFIXES)}
    return kept | {
        "OMP_NUM_THREADS": str(max(num_cpus // max(num_processes, 1), 1)),
        "TOKENIZERS_PARALLELISM": "false",
        "HF_HUB_OFFLINE": "1",
        "HF_DATASETS_OFFLINE": "1",
        "PYTHONUNBUFFERED": "1",
    }
