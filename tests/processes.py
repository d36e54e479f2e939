"""Ending the processes that a test started."""

import contextlib
import os
import signal


def kill_group(pid: int) -> None:
    """SIGKILL to the process group that `pid` leads.

    A child of asyncio may be gone before its return code is known: another thread waits for it.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)
