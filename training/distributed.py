"""What the processes of one run share: environment, DeepSpeed's configuration, and agreements between ranks."""

import contextlib
import json
import os
from datetime import timedelta
from importlib import resources
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from omnialign.errors import Internal, OmnialignError, from_status, to_status
from training.spec import Distribution

TIMEOUT = timedelta(minutes=30)
SHARED_BYTES = 16 * 1024 * 1024
"""How much of a shared file travels at a time."""


def rank() -> int:
    """This process's number, 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Processes of the run, 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def deepspeed_config(distribution: Distribution) -> dict[str, Any]:
    """DeepSpeed's configuration of a stage; a fresh object on every call, so nobody can change another's stage."""
    path = resources.files("training") / "deepspeed" / f"zero{distribution.zero_stage}.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if distribution.precision == "bf16":
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    return config


def join() -> None:
    """Joins the process group: NCCL on accelerators, gloo on processors.

    DeepSpeed's shared-memory collective is left out on processors: it compiles C++ on first use, for a minute, and
    gloo over loopback is as quick for the models that fit a processor.
    """
    import deepspeed

    if not torch.cuda.is_available():
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    deepspeed.init_distributed(dist_backend=backend, timeout=TIMEOUT, auto_mpi_discovery=False, verbose=False)
    _tell_accelerate()


def _tell_accelerate() -> None:
    """Makes Accelerate see the ranks.

    On processors with DeepSpeed, Accelerate 1.15 believes that each rank is alone: every rank would train on all the
    data and write over the others' files, without a word. `use_configured_state` of the arguments keeps this state.
    """
    from accelerate import PartialState

    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    state = PartialState()
    if not torch.cuda.is_available():
        state.backend, state.device = "gloo", torch.device("cpu")
        state.num_processes, state.process_index = dist.get_world_size(), dist.get_rank()
        state.local_process_index = _local_rank()


def barrier() -> None:
    """Waits until every rank is here."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()


def any_rank(flag: bool) -> bool:
    """Whether the flag is up on any rank; every rank gets the same answer."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return flag
    total = torch.tensor([int(flag)], device=_device())
    dist.all_reduce(total, op=dist.ReduceOp.MAX)
    return bool(total.item())


def is_first_of_node() -> bool:
    """Whether this process does what each node needs once."""
    return _local_rank() == 0


def share_file(path: Path) -> None:
    """Makes a file that rank 0 has exist on every node, at the same path; nodes that have it already keep theirs."""
    lacking = _local_rank() == 0 and not path.is_file()
    if not any_rank(lacking):
        return
    size = torch.tensor([path.stat().st_size if rank() == 0 else 0], device=_device())
    dist.broadcast(size, src=0)
    staged = path.with_name(f".{path.name}.shared")
    path.parent.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as files:
        source = files.enter_context(path.open("rb")) if rank() == 0 else None
        sink = files.enter_context(staged.open("wb")) if lacking else None
        for start in range(0, int(size.item()), SHARED_BYTES):
            count = min(SHARED_BYTES, int(size.item()) - start)
            piece = torch.frombuffer(bytearray(source.read(count) if source else count), dtype=torch.uint8)
            piece = piece.to(_device())
            dist.broadcast(piece, src=0)
            if sink is not None:
                sink.write(piece.cpu().numpy().tobytes())
    if lacking:
        staged.replace(path)
    barrier()


def _local_rank() -> int:
    return int(os.environ.get("LOCAL_RANK", "0"))


def _device() -> torch.device:
    """Where tensors of a collective must lie."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def share_outcome(path: Path | None, error: OmnialignError | None) -> Path:
    """Rank 0's result on every rank. Raises rank 0's error on every rank, so that no rank waits for a dead one."""
    outcome: list[Any] = [str(path) if path else None, to_status(error).SerializeToString() if error else None]
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        from google.rpc import status_pb2

        raise from_status(status_pb2.Status.FromString(outcome[1]))
    if outcome[0] is None:
        raise Internal("rank 0 prepared no examples", reason="EXAMPLES_MISSING")
    return Path(outcome[0])
