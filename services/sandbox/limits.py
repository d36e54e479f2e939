"""What a task in a child process may use, and how the kernel enforces it.

The limits hold for one task: a child serves many, so each task starts from what the child has used so far.
"""

import ctypes
import math
import os
import resource
import signal
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from omnialign.media import MAX_DECODED_BYTES

NO_MEMORY_EXIT_CODE = 71
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 64 << 20
"""Freed memory that a child keeps for its next task."""
PR_SET_NO_NEW_PRIVS = 38
FIRST_TO_DIE = "900"
"""The `oom_score_adj` of a child: when memory runs out, the kernel ends it rather than the service."""
ENVIRONMENT = ("PATH", "HOME", "LANG", "TMPDIR", "OMP_NUM_THREADS", "LD_LIBRARY_PATH", "HF_HOME", "TZ")
"""The variables that a child keeps. The others may hold secrets, which no decoder needs."""


@dataclass(frozen=True)
class Limits:
    """What one task may use; beyond it, its process ends.

    `wall_seconds` includes waiting for a processor, and so must be generous: `cpu_seconds` catches what computes for
    ever, `wall_seconds` what hangs.
    """

    cpu_seconds: float = 30.0
    wall_seconds: float = 180.0
    memory_bytes: int = 2 * MAX_DECODED_BYTES


def harden() -> None:
    """Gives up, for the rest of this process, what reading a file does not need."""
    # Ctrl-C reaches the whole group of processes; the parent alone decides when a child ends.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    libc = ctypes.CDLL(None)
    libc.prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    # A child frees nearly all of its memory after each task, and glibc would give it back to the system, to be faulted
    # in again by the next: for a picture, that takes half as long as decoding it.
    for option, size_bytes in ((M_TRIM_THRESHOLD, KEPT_BYTES), (M_MMAP_THRESHOLD, KEPT_BYTES // 2)):
        libc.mallopt(option, size_bytes)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    with suppress(OSError):  # where it may not be set, the kernel's own choice holds
        Path("/proc/self/oom_score_adj").write_text(FIRST_TO_DIE)
    for name in set(os.environ) - set(ENVIRONMENT):
        del os.environ[name]
    os.environ["TOKENIZERS_PARALLELISM"] = "false"  # its threads do not survive the fork


def enforce(limits: Limits) -> None:
    """Limits what this process may use from now on. Only soft limits change, so that the next task can have its own."""
    enforce_processor_time(limits.cpu_seconds)
    # RLIMIT_DATA counts private writable memory alone. RLIMIT_AS would count libraries and shared memory as well.
    resource.setrlimit(resource.RLIMIT_DATA, (_data_bytes() + limits.memory_bytes, resource.RLIM_INFINITY))


def enforce_processor_time(seconds: float) -> None:
    """Limits the processor time that this process may use from now on."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    end = math.ceil(used.ru_utime + used.ru_stime + seconds)
    resource.setrlimit(resource.RLIMIT_CPU, (end, resource.RLIM_INFINITY))


def _data_bytes() -> int:
    """Private writable memory of this process: what RLIMIT_DATA compares."""
    return int(Path("/proc/self/statm").read_text().split()[5]) * resource.getpagesize()


def cause_of(exit_code: int | None) -> str:
    """Why a child ended, as the end of a sentence that begins with "its process"."""
    if exit_code == -signal.SIGXCPU:
        return "used up its processor time"
    if exit_code == NO_MEMORY_EXIT_CODE:
        return "used up its memory"
    if exit_code == -signal.SIGKILL:
        return "was killed, probably because memory ran out"
    if exit_code is not None and exit_code < 0:
        return f"crashed ({signal.Signals(-exit_code).name})"
    return f"ended unexpectedly (exit code {exit_code})"
