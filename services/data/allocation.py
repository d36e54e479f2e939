"""Who keeps the memory that the service frees: glibc, for all threads. Imported before all that imports Arrow.

Arrow's own allocators keep what is freed for each thread, and Lance has many. They read large values in half of the
time, though, so that children of the sandbox, which read files and end, stay with them.
"""

import ctypes
import importlib
import os
from contextlib import suppress

ALLOCATOR = "ARROW_DEFAULT_MEMORY_POOL"
"""The variable of the environment that Arrow reads, once."""
M_ARENA_MAX, ARENAS = -8, 2
"""An option of `mallopt(3)`, and how many arenas there are."""


def share_freed_memory() -> None:
    """Has glibc keep what is freed in few places, and not in eight for each core."""
    with suppress(AttributeError, OSError):  # another C library
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)


def _choose_allocator() -> None:
    """Has Arrow allocate with glibc in this process, and not in its children, unless the operator has chosen."""
    if ALLOCATOR not in os.environ:
        os.environ[ALLOCATOR] = "system"
        importlib.import_module("pyarrow").default_memory_pool()
        del os.environ[ALLOCATOR]


_choose_allocator()
