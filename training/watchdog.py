"""A watch over the training step: a stuck rank shows its stacks and ends, instead of holding all others for ever."""

import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable

from training.failure import EXIT_STALLED

LAST_RESORT_FACTOR = 1.5
"""When the interpreter itself is stuck, faulthandler's own C thread ends the process after this many time-outs."""


class Watchdog:
    """Ends the process when `beat` is not called for `timeout_seconds`."""

    def __init__(self, *, timeout_seconds: float, on_stall: Callable[[], None] = lambda: None) -> None:
        self._timeout_seconds = timeout_seconds
        self._on_stall = on_stall
        self._beat_at = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="step-watchdog", daemon=True)

    def start(self) -> None:
        """Starts watching; the first beat is now."""
        self.beat()
        self._thread.start()

    def beat(self) -> None:
        """Notes that a step was done."""
        self._beat_at = time.monotonic()
        faulthandler.dump_traceback_later(self._timeout_seconds * LAST_RESORT_FACTOR, exit=True)

    def stop(self) -> None:
        """Stops watching."""
        self._ended.set()
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        while not self._ended.wait(min(1.0, self._timeout_seconds / 4)):
            silent_seconds = time.monotonic() - self._beat_at
            if silent_seconds > self._timeout_seconds:
                sys.stderr.write(f"no training step for {silent_seconds:.1f} s; stacks of all threads follow\n")
                faulthandler.dump_traceback(all_threads=True)
                sys.stderr.flush()
                try:
                    self._on_stall()
                finally:
                    os._exit(EXIT_STALLED)
