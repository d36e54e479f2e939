"""The processes of jobs on this machine: start, poll, stop.

torchrun gives every worker a session of its own, so a signal to the process group of the program does not reach the
workers. A job's processes are therefore recognised by a mark in their environment, which children inherit, those too
whose parent has died.
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

from services.training.launcher import LINE_CHARACTERS, Handle, LogPart

MARK = "OMNIALIGN_TRAINING_JOB_UID"
KILL_SECONDS = 4.0
LOG_TAIL_LINES = 40
LOG_TAIL_BYTES = 64 * 1024
LOG_PART_BYTES = 256 * 1024


@dataclass(frozen=True)
class ProcessExit:
    """How a process ended."""

    exit_code: int | None
    """Below 0 for a signal; None for a process that an earlier service started, whose code nobody collected."""

    def reason(self) -> str:
        """The exit in words."""
        if self.exit_code is None:
            return "the process is gone"
        if self.exit_code >= 0:
            return f"exit code {self.exit_code}"
        name = signal.Signals(-self.exit_code).name
        return f"killed by {name}{', possibly for lack of memory' if name == 'SIGKILL' else ''}"


class ProcessGroups:
    """Starts and ends the processes of jobs."""

    def __init__(self, *, terminate_seconds: float) -> None:
        self._terminate_seconds = terminate_seconds
        self._children: dict[int, subprocess.Popen[bytes]] = {}
        self._exits: dict[Handle, ProcessExit] = {}

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

    def poll(self, handle: Handle) -> ProcessExit | None:
        """How the process ended, or None while it runs."""
        # 1. A child of this service: the kernel keeps its exit code until it is collected here, once.
        child = self._children.get(handle.pid)
        if child is not None and (code := child.poll()) is not None:
            del self._children[handle.pid]
            self._exits[handle] = ProcessExit(code)
        elif child is not None:
            return None
        # 2. A child whose exit was collected earlier.
        if handle in self._exits:
            return self._exits[handle]
        # 3. A process of an earlier service. The start time tells it from a later process with the same id.
        return None if _start_time(handle.pid) == handle.start_time and _runs(handle.pid) else ProcessExit(None)

    async def stop(self, uid: str, handle: Handle | None) -> None:
        """Ends every process of a job: SIGTERM, then SIGKILL for those that are left."""
        await self._signal_until_gone(uid, handle, signal.SIGTERM, seconds=self._terminate_seconds)
        await self._signal_until_gone(uid, handle, signal.SIGKILL, seconds=KILL_SECONDS)

    async def _signal_until_gone(
        self, uid: str, handle: Handle | None, number: signal.Signals, *, seconds: float
    ) -> None:
        deadline, signalled = time.monotonic() + seconds, set[int]()
        while pids := await asyncio.to_thread(processes_of, uid):
            for pid in pids:
                # A second SIGTERM would make torchrun abandon its own shutdown; SIGKILL may be repeated.
                if pid not in signalled or number == signal.SIGKILL:
                    _send(pid, number)
                    signalled.add(pid)
            if time.monotonic() > deadline:
                break
            await asyncio.sleep(0.05)
            if handle is not None:
                self.poll(handle)  # collects the exit of the child, which would otherwise stay a zombie


def processes_of(uid: str) -> list[int]:
    """The ids of the living processes that carry the mark of job `uid`."""
    found = []
    for process in psutil.process_iter():
        try:
            if process.environ().get(MARK) == uid and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.pid)
        except psutil.Error:
            continue  # it has ended meanwhile, or belongs to another user
    return found


def log_tail(log: Path) -> list[str]:
    """The last lines of a log; none if there is no log."""
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - LOG_TAIL_BYTES, 0))
            text = file.read().decode("utf-8", errors="replace")
    except FileNotFoundError:
        return []
    return [line[:LINE_CHARACTERS] for line in text.splitlines()[-LOG_TAIL_LINES:]]


def log_part(log: Path, *, position: int) -> LogPart:
    """The lines after a position, of at most `LOG_PART_BYTES`; none if there is no log or it is shorter."""
    try:
        with log.open("rb") as file:
            file.seek(position)
            data = file.read(LOG_PART_BYTES)
    except FileNotFoundError:
        return LogPart((), position)
    if len(data) == LOG_PART_BYTES and b"\n" not in data:  # a line longer than a part, which would never end
        data = data[:-1] + b"\n"
    return LogPart.of(data, position=position)


def _send(pid: int, number: signal.Signals) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def _start_time(pid: int) -> float:
    """When a process started, in seconds since 1970; 0 if there is no such process."""
    try:
        return float(psutil.Process(pid).create_time())
    except psutil.Error:
        return 0.0


def _runs(pid: int) -> bool:
    try:
        return bool(psutil.Process(pid).status() != psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
