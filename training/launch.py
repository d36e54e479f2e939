"""The command line and environment of a run: torchrun on this machine, with nothing inherited by accident."""

import sys
from collections.abc import Mapping
from pathlib import Path

KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "TZ", "PYTHONPATH")
KEPT_PREFIXES = ("CUDA_", "NVIDIA_", "NCCL_", "GLOO_")


def command(method: str, *, spec_path: Path, num_processes: int, python: str = sys.executable) -> list[str]:
    """The argument list that starts a run. The rendezvous takes a free port of its own."""
    torchrun = ["-m", "torch.distributed.run", "--nnodes", "1", "--nproc-per-node", str(num_processes)]
    rendezvous = ["--rdzv-backend", "c10d", "--rdzv-endpoint", "127.0.0.1:0", "--max-restarts", "0"]
    return [python, *torchrun, *rendezvous, "-m", "training", method, "--spec", str(spec_path)]


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
