"""What the processes of one run share: environment, DeepSpeed's configuration, and agreements between ranks.

Every function that communicates must be called by all ranks in the same order, or they wait for each other for ever.
"""

import contextlib
import functools
import json
import os
from collections.abc import Callable
from datetime import timedelta
from importlib import resources
from pathlib import Path
from typing import Any, TypeVar, cast

import torch
import torch.distributed as dist
import transformers.trainer
from google.rpc import status_pb2

from omnialign.errors import OmnialignError, from_status, to_status
from training.spec import Distribution

TIMEOUT = timedelta(hours=24)
"""Of a collective. Longer than any phase may take: ranks wait while rank 0 reads, and the watchdog ends a stuck run."""
T = TypeVar("T")

SHARED_BYTES = 16 * 1024 * 1024
"""Bytes of a shared file that are broadcast at a time."""


def rank() -> int:
    """Number of this process; 0 without torchrun."""
    return int(os.environ.get("RANK", "0"))


def world_size() -> int:
    """Processes of the run; 1 without torchrun."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def deepspeed_config(distribution: Distribution) -> dict[str, Any]:
    """DeepSpeed's configuration of a ZeRO stage; a new object on every call, because DeepSpeed edits it."""
    path = resources.files("training") / "deepspeed" / f"zero{distribution.zero_stage}.json"
    config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if distribution.precision == "bf16":
        config["torch_autocast"] = {"enabled": True, "dtype": "bfloat16"}
    if distribution.offload:
        place = {"device": "cpu", "pin_memory": torch.cuda.is_available()}
        config["zero_optimization"]["offload_optimizer"] = place
        if distribution.offload == "optimizer_and_weights":
            config["zero_optimization"]["offload_param"] = dict(place)
        config["zero_force_ds_cpu_optimizer"] = False  # DeepSpeed's own AdamW needs a compiler on first use
    return config


def join() -> None:
    """Joins the process group: NCCL on GPUs, gloo on CPUs.

    DeepSpeed's shared-memory collective is not used on CPUs: it compiles C++ on first use, for a minute, and gloo over
    loopback is as fast for models that fit a CPU.
    """
    import deepspeed

    if not torch.cuda.is_available():
        deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    backend = "nccl" if torch.cuda.is_available() else "gloo"
    deepspeed.init_distributed(dist_backend=backend, timeout=TIMEOUT, auto_mpi_discovery=False, verbose=False)
    _tell_accelerate()


def _tell_accelerate() -> None:
    """Makes Accelerate see the ranks.

    On CPUs with DeepSpeed, Accelerate 1.15 takes each rank for the only one: every rank would silently train on all
    the data and overwrite the others' files. `use_configured_state` among the arguments keeps this state.
    """
    from accelerate import PartialState

    os.environ["ACCELERATE_USE_DEEPSPEED"] = "true"
    state = PartialState()
    if not torch.cuda.is_available():
        state.backend, state.device = "gloo", torch.device("cpu")
        state.num_processes, state.process_index = dist.get_world_size(), dist.get_rank()
        state.local_process_index = _local_rank()


def keep_gradient_norm(engine: Any) -> None:
    """Makes a DeepSpeed engine keep the gradient's norm at ZeRO-0 too, where it clips and forgets it."""
    from deepspeed.runtime.utils import clip_grad_norm_

    if engine.zero_optimization_stage() > 0:
        return

    def clip() -> None:
        engine._global_grad_norm = clip_grad_norm_(engine.module.parameters(), max_norm=engine.gradient_clipping())

    engine.clip_fp32_gradients = clip


def reduce_over_several(engine: Any) -> None:
    """Makes a DeepSpeed engine at ZeRO-0 average gradients over ranks only where there are several.

    It does so in a copy of all gradients. ZeRO's stages keep theirs in the buffers that they are reduced in.
    """
    if engine.zero_optimization_stage() == 0 and world_size() == 1:
        engine.enable_backward_allreduce = False


def checkpoint_what_learns(engine: Any) -> None:
    """Makes a DeepSpeed engine leave frozen weights out of its checkpoints: they are the base model's.

    It can leave them out itself, but for weights with a second name, such as an output head tied to the embeddings.
    """
    module_state_dict = engine.module_state_dict
    weights = engine.module.named_parameters(remove_duplicate=False)
    frozen = {name for name, weight in weights if not weight.requires_grad}

    def what_learns(*args: Any, **kwargs: Any) -> dict[str, Any]:
        return {name: value for name, value in module_state_dict(*args, **kwargs).items() if name not in frozen}

    engine.module_state_dict = what_learns
    engine.save_checkpoint = functools.partial(engine.save_checkpoint, exclude_frozen_parameters=True)


def restore_what_learns() -> None:
    """Makes `Trainer` take checkpoints without frozen weights, which it does itself only for PEFT's wrapped models."""
    load = transformers.trainer.deepspeed_load_checkpoint
    if load.__module__ == __name__:
        return

    def load_what_learns(engine: Any, folder: str, load_module_strict: bool = True) -> None:
        load(engine, folder, load_module_strict=False)

    transformers.trainer.deepspeed_load_checkpoint = load_what_learns


def what_learns(engine: Any) -> dict[str, torch.Tensor]:
    """The weights of a DeepSpeed engine that learn, by name; at ZeRO-3 complete on rank 0, and empty on the others.

    All ranks take part.
    """
    if engine.zero_optimization_partition_weights():
        return engine._zero3_consolidated_16bit_state_dict(exclude_frozen_parameters=True) or {}
    return {name: weight.detach() for name, weight in engine.module.named_parameters() if weight.requires_grad}


def gather_unequal_rows(accelerator: Any, *, is_blank: Callable[[], bool]) -> None:
    """Makes an Accelerator gather tensors of which each rank has a different number of rows; none while `is_blank`.

    Its own `gather` takes equal numbers for granted.
    """
    gather: Callable[[Any], Any] = accelerator.gather

    def gather_rows(values: Any) -> Any:
        if not torch.is_tensor(values) or values.dim() == 0 or world_size() == 1:
            return gather(values)
        values = values[:0] if is_blank() else values
        counts = gather(torch.tensor([len(values)], device=values.device)).tolist()
        if not any(counts):
            return values[:0]
        padded = values.new_zeros((max(counts), *values.shape[1:]))
        padded[: len(values)] = values
        pieces = gather(padded).split(max(counts))
        return torch.cat([piece[:count] for piece, count in zip(pieces, counts, strict=True)])

    accelerator.gather = gather_rows


def barrier() -> None:
    """Waits until every rank has arrived."""
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.barrier()


def any_rank(flag: bool) -> bool:
    """Whether `flag` is set on any rank; every rank gets the same answer."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return flag
    total = torch.tensor([int(flag)], device=_device())
    dist.all_reduce(total, op=dist.ReduceOp.MAX)
    return bool(total.item())


def is_first_of_node() -> bool:
    """Whether this process does what every node needs once."""
    return _local_rank() == 0


def share_file(path: Path) -> None:
    """Copies rank 0's file to every node, to the same path; nodes that have it already keep theirs."""
    lacking = _local_rank() == 0 and not path.is_file()
    if not any_rank(lacking):  # one machine, or a shared folder
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
            # uint8, (count,): filled on rank 0, and to be overwritten by the broadcast on the others.
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
    """Where the tensors of a collective must be."""
    return torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")


def on_main(work: Callable[[], T]) -> T:
    """What `work` gives on rank 0, on every rank.

    A typed error of it is raised on every rank, so that none waits for a dead one.
    """
    outcome: list[Any] = [None, None]
    if rank() == 0:
        try:
            outcome[0] = work()
        except OmnialignError as error:
            outcome[1] = to_status(error).SerializeToString()
    if dist.is_initialized() and dist.get_world_size() > 1:
        dist.broadcast_object_list(outcome, src=0)
    if outcome[1] is not None:
        raise from_status(status_pb2.Status.FromString(outcome[1]))
    return cast(T, outcome[0])
