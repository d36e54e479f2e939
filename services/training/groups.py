"""Process groups on this machine: start, look, stop.

torchrun gives every worker a session of its own, so a signal to the group of the program started does not reach the
workers. Every process of a job is therefore known by a mark in its environment, which children inherit: also those
whose parent is gone.
"""

import asyncio
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import psutil

from services.training.launcher import Handle

MARK = "OMNIALIGN_TRAINING_JOB_UID"
KILL_SECONDS = 4.0
LOG_TAIL_LINES = 40
LOG_TAIL_BYTES = 64 * 1024


@dataclass(frozen=True)
class Ended:
    """A process that is gone. The exit code is None when somebody else's child, and below zero for a signal."""

    exit_code: int | None

    def reason(self) -> str:
        """The end in words."""
        if self.exit_code is None:
            return "the process is gone"
        if self.exit_code >= 0:
            return f"exit code {self.exit_code}"
        name = signal.Signals(-self.exit_code).name
        return f"killed by {name}{', possibly for lack of memory' if name == 'SIGKILL' else ''}"


class Groups:
    """Starts and ends the processes of jobs."""

    def __init__(self, *, terminate_seconds: float) -> None:
        self._terminate_seconds = terminate_seconds
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._ended: dict[Handle, Ended] = {}

    def start(
        self, arguments: Sequence[str], *, uid: str, environment: Mapping[str, str], folder: Path, log: Path
    ) -> Handle:
        """Starts a program in a session of its own, its output appended to `log`. Raises OSError."""
        with log.open("ab") as output:
            child = subprocess.Popen(
                list(arguments),
                cwd=folder,
                env={**environment, MARK: uid},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._children[child.pid] = child
        return Handle(child.pid, _start_time(child.pid))

    def poll(self, handle: Handle) -> Ended | None:
        """How the process ended, or None while it runs."""
        child = self._children.get(handle.pid)
        if child is not None and (code := child.poll()) is not None:
            del self._children[handle.pid]
            self._ended[handle] = Ended(code)
        elif child is not None:
            return None
        if handle in self._ended:
            return self._ended[handle]
        return None if _start_time(handle.pid) == handle.start_time and _runs(handle.pid) else Ended(None)

    async def stop(self, uid: str, handle: Handle | None) -> None:
        """Ends every process of a job: SIGTERM, then SIGKILL to what is left."""
        await self._signal_until_gone(uid, handle, signal.SIGTERM, seconds=self._terminate_seconds)
        await self._signal_until_gone(uid, handle, signal.SIGKILL, seconds=KILL_SECONDS)

    async def _signal_until_gone(
        self, uid: str, handle: Handle | None, number: signal.Signals, *, seconds: float
    ) -> None:
        deadline, told = time.monotonic() + seconds, set[int]()
        while pids := await asyncio.to_thread(members, uid):
            for pid in pids:
                # A second SIGTERM would hurry torchrun out of its own shutdown; a SIGKILL may be repeated.
                if pid not in told or number == signal.SIGKILL:
                    _send(pid, number)
                    told.add(pid)
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.05)
            if handle is not None:
                self.poll(handle)


def members(uid: str) -> list[int]:
    """The ids of the living processes that carry a job's mark."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == uid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue  # gone meanwhile, or another user's
    return found


def log_tail(log: Path) -> list[str]:
    """The last lines of a log; none when there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - LOG_TAIL_BYTES, 0))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return [line[:2000] for line in text.splitlines()[-LOG_TAIL_LINES:]]


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _start_time(pid: int) -> float:
    """When a process started, in seconds since 1970; 0 when there is none."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
