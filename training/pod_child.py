"""torchrun as the child of a pod's program: its output passed on, its workers told to stop, its end understood."""

import collections
import contextlib
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import IO

import psutil

TAIL_LINES = 40
POLL_SECONDS = 0.2
OUTPUT_SECONDS = 5.0

MEMORY_EVENTS = Path("/sys/fs/cgroup/memory.events")


class Child:
    """A running torchrun."""

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str], folder: Path) -> None:
        self.tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        self._process = subprocess.Popen(
            list(command),
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._pass_on, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    def wait(self, stop: threading.Event) -> int:
        """Waits for the end, telling the workers to stop when `stop` is set. Returns the exit code."""
        told = False
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._process.wait(timeout=POLL_SECONDS)
                self._reader.join(timeout=OUTPUT_SECONDS)
                return code
            if stop.is_set() and not told:
                self._tell_to_stop()
                told = True

    def _tell_to_stop(self) -> None:
        """Asks the workers, not torchrun: it would give them half a minute, whatever the pod has left."""
        workers = []
        with contextlib.suppress(psutil.Error):
            workers = psutil.Process(self._process.pid).children()
        for worker in workers:
            with contextlib.suppress(psutil.Error):
                worker.terminate()
        if not workers:
            self._process.terminate()

    def _pass_on(self, output: IO[bytes]) -> None:
        for line in output:
            text = line.decode("utf-8", errors="replace").rstrip("\n")
            self.tail.append(text)
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()


def out_of_memory_kills() -> int:
    """Processes of this container that were killed for lack of memory; 0 where the kernel does not tell."""
    try:
        counts = dict(line.split() for line in MEMORY_EVENTS.read_text().splitlines())
        return int(counts.get("oom_kill", 0))
    except (OSError, ValueError):
        return 0
