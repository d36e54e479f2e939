"""What tests that start processes share: the folder they run in, free ports, and how they end."""

import contextlib
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).parents[1]


def free_ports(count: int) -> list[int]:
    """Different ports of 127.0.0.1 that nothing listens on now."""
    with contextlib.ExitStack() as held:  # all at once, or the same one might come twice
        sockets = [held.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def free_port() -> int:
    """A port of 127.0.0.1 that nothing listens on now."""
    return free_ports(1)[0]


def kill_group(pid: int) -> None:
    """Sends SIGKILL to the process group that `pid` leads.

    A child of asyncio may be gone before its return code is known, for another thread waits for it: no error then.
    """
    with contextlib.suppress(ProcessLookupError):
        os.killpg(pid, signal.SIGKILL)


def kill_when(process: subprocess.Popen[bytes], reached: Callable[[], bool]) -> None:
    """Kills a process with its descendants as soon as something is reached; it must not end before."""
    while not reached():
        assert process.poll() is None
        time.sleep(0.005)  # between two looks at what another process writes
    leader = psutil.Process(process.pid)
    for each in [*leader.children(recursive=True), leader]:
        each.send_signal(signal.SIGKILL)
    process.wait()
