"""How a run that fails tells why: every failure becomes a typed error in `error.json`, with a reason.

Only an error that was typed when it was raised is final. A full disk, memory that ran out and whatever was not foreseen
may be mended by another attempt, from the newest checkpoint.
"""

import contextlib
import errno
import logging
import shutil
from collections.abc import Iterator
from pathlib import Path

from omnialign.errors import Internal, OmnialignError, ResourceExhausted
from training import checkpoint
from training.launch import read_failure, write_failure

DISK_ERRNOS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})
DISK_WORDS = ("no space left", "disk quota exceeded", "file write failed", "file too large")
"""How libraries that hide the system's error number say that a write failed."""
MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory")
MESSAGE_CHARACTERS = 500

log = logging.getLogger(__name__)


def leave(error: Exception, output_dir: Path) -> OmnialignError:
    """Writes the typed form of `error` to the output folder and returns it.

    What was left half-written goes first, so that there is room for the error, and for the next attempt. Where a typed
    error is there already it stays: the other ranks only complain that the first one has gone.
    """
    clear_staging(output_dir)
    failure = typed(error, output_dir)
    if failure is error or read_failure(output_dir) is None:
        try:
            write_failure(output_dir, failure)
        except OSError:
            log.exception("the failure cannot be written to %s", output_dir)
    return failure


def typed(error: Exception, output_dir: Path) -> OmnialignError:
    """The typed form of an error: itself, DISK_FULL, OUT_OF_MEMORY, or TRAINING_FAILED for anything else."""
    if isinstance(error, OmnialignError):
        return error
    causes = list(_causes(error))
    if any(_is_disk(cause) for cause in causes):
        free_bytes = shutil.disk_usage(_existing(output_dir)).free
        return ResourceExhausted(
            f"the disk of {output_dir} is full ({free_bytes:,} bytes are free): it needs room for three checkpoints "
            "and the model",
            reason="DISK_FULL",
            metadata={"folder": str(output_dir), "free_bytes": str(free_bytes)},
        )
    if any(_is_memory(cause) for cause in causes):
        return ResourceExhausted(
            f"memory ran out: lower micro_batch_size or max_length, or raise zero_stage; {_words(error)}",
            reason="OUT_OF_MEMORY",
            metadata={"error": _words(error)},
        )
    return Internal(
        f"the run failed, its log says where: {_words(error)}",
        reason="TRAINING_FAILED",
        metadata={"error": _words(error)},
    )


def clear_staging(output_dir: Path) -> None:
    """Removes checkpoints and models that an attempt left half-written."""
    checkpoint.clear_staging(output_dir / "checkpoints")
    for staged in output_dir.glob(".model.*"):
        shutil.rmtree(staged, ignore_errors=True)


def _causes(error: BaseException) -> Iterator[BaseException]:
    seen: set[int] = set()
    found: BaseException | None = error
    while found is not None and id(found) not in seen:
        yield found
        seen.add(id(found))
        found = found.__cause__ or found.__context__


def _is_disk(error: BaseException) -> bool:
    # torch and safetensors raise errors of their own, in which the system's error is text at best.
    return getattr(error, "errno", None) in DISK_ERRNOS or any(word in str(error).lower() for word in DISK_WORDS)


def _is_memory(error: BaseException) -> bool:
    is_named = type(error).__name__ == "OutOfMemoryError"  # torch's, which is not imported here
    return isinstance(error, MemoryError) or is_named or any(word in str(error).lower() for word in MEMORY_WORDS)


def _words(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"[:MESSAGE_CHARACTERS]


def _existing(folder: Path) -> Path:
    with contextlib.suppress(StopIteration):
        return next(path for path in (folder, *folder.parents) if path.exists())
    return Path("/")
