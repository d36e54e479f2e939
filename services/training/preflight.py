"""What a job will take of each device's memory, found out before it takes one.

The device is that of the launcher: a GPU, whose memory only the operator can tell (`device_memory_bytes`), or without
one the machine's own memory, of which each process gets its share.
"""

import asyncio
from dataclasses import asdict, replace
from pathlib import Path
from typing import Literal, Protocol

import psutil

from omnialign.errors import OmnialignError
from omnialign.v1 import training_service_pb2 as pb
from services.training.config import TrainingConfig
from services.training.kubernetes.settings import read_settings
from training.memory import check_fits
from training.model_shape import ModelShape
from training.spec import Lora, Spec

ANSWER_SECONDS = 5.0
"""How long a caller waits for the registry before a job is taken without an estimate."""
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")

Device = Literal["cpu", "gpu"]


class Shapes(Protocol):
    """Knows the shapes of models."""

    async def shape(self, name: str) -> tuple[ModelShape | None, bool]:
        """The shape of a base model, None if it is not known; and whether it is that of a LoRA's base."""


class Preflight:
    """Estimates the memory of jobs."""

    def __init__(self, shapes: Shapes, config: TrainingConfig) -> None:
        self._shapes = shapes
        self._device: Device = "gpu" if _has_gpus(config) else "cpu"
        self._known_bytes = config.device_memory_bytes
        self._is_local = config.launcher == "process"

    async def inspect(self, base_model: str, spec: Spec, *, must_answer: bool) -> pb.MemoryEstimate | None:
        """The memory that a job needs; None if the model's shape is not known.

        Raises `ResourceExhausted` (MEMORY_TOO_SMALL), and with `must_answer` what is wrong with the base model; without
        it, the job itself will fail.
        """
        try:
            async with asyncio.timeout(ANSWER_SECONDS):
                shape, is_lora = await self._shapes.shape(base_model)
        except (OmnialignError, TimeoutError):
            if must_answer:
                raise
            return None
        if shape is None:
            return None
        if is_lora:  # training goes on from it
            spec = replace(spec, lora=spec.lora or Lora(), initial_lora_dir=base_model)
        device_bytes = self._device_bytes(spec)
        found = check_fits(spec, shape, device=self._device, device_bytes=device_bytes)
        parts = {f"{name}_bytes": value for name, value in asdict(found).items()}
        totals = {"total_bytes": found.total, "least_bytes": found.least, "device_bytes": device_bytes}
        return pb.MemoryEstimate(device=self._device, **parts, **totals)

    def _device_bytes(self, spec: Spec) -> int:
        if self._known_bytes or self._device == "gpu" or not self._is_local:
            return self._known_bytes
        return machine_bytes() // spec.distribution.num_processes


def machine_bytes() -> int:
    """The memory of this machine, or of the container."""
    total = int(psutil.virtual_memory().total)
    try:
        return min(total, int(CGROUP_LIMIT.read_text()))
    except (OSError, ValueError):  # no limit: the file says `max`
        return total


def _has_gpus(config: TrainingConfig) -> bool:
    if config.kubernetes_file is not None and config.launcher == "kubernetes":
        return read_settings(config.kubernetes_file).gpus > 0
    return any(Path("/dev").glob("nvidia[0-9]*"))
