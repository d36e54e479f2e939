"""What tests that start processes share: the folder they run in, free ports, and how they end."""

import contextlib
import itertools
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).parents[1]


def free_ports(count: int) -> list[int]:
    """Different ports of 127.0.0.1 that nothing listens on now.

    Outgoing connections get none of them, or one of those might take a port before the process that is to listen there.
    """
    ranges = Path("/proc/sys/net/ipv4/ip_local_port_range")
    first_outgoing = int(ranges.read_text().split()[0]) if ranges.exists() else 32768
    candidates = random.SystemRandom().sample(range(10_000, first_outgoing), 100 + count)
    return list(itertools.islice(filter(_is_free, candidates), count))


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


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
