"""Translating the storage engines' failures to typed errors: a full disk, a lost race, anything else."""

import errno
from collections.abc import Iterator
from contextlib import contextmanager

from sqlalchemy.exc import OperationalError

from omnialign.errors import Aborted, OmnialignError, ResourceExhausted

FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
# Lance and SQLite report the system's error only in words.
FULL_WORDS = ("no space left", "disk is full", "file too large", "quota exceeded", "(os error 28)", "(os error 27)")
CONFLICT_WORDS = ("conflict", "too much write contention", "concurrent")


def translate(error: Exception) -> OmnialignError | None:
    """The typed error for a failure of storage; None where it is neither a full disk nor a lost race."""
    words = str(error).lower()
    if (isinstance(error, OSError) and error.errno in FULL) or any(word in words for word in FULL_WORDS):
        return ResourceExhausted("The storage is full: free some space and try again.", reason="STORAGE_FULL")
    if any(word in words for word in CONFLICT_WORDS):
        return Aborted("Too many writers changed the table at once: try again.", reason="COMMIT_CONFLICT")
    return None


@contextmanager
def storage() -> Iterator[None]:
    """Within it, failures of storage become typed errors. Other errors pass."""
    try:
        yield
    except OmnialignError:
        raise
    except (OSError, RuntimeError, ValueError, OperationalError) as error:
        typed = translate(error)
        if typed is None:
            raise
        raise typed from error
