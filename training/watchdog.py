"""The watchdog that ends a run which is stuck, with the stacks of its threads.

Each phase of a run has its own clock, because what is slow in one is stuck in another: a checkpoint of a large model
takes longer than any step.
"""

import contextlib
import enum
import faulthandler
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping

from training.launch import EXIT_STALLED
from training.spec import Spec

LAST_RESORT_FACTOR = 1.5
"""After how many time-outs faulthandler ends the process, should the watchdog's own thread be stuck too."""


class Phase(enum.StrEnum):
    """What a run is doing. The delivery of the model follows the run, and its calls have deadlines of their own."""

    READ = "read"
    """Fetches records and media, makes examples, loads the model; ranks other than 0 wait."""
    REFERENCE = "reference"
    """The reference's log-probabilities; every batch restarts the clock."""
    RESTORE = "restore"
    """Prepares the optimiser and reads a checkpoint."""
    ROLLOUT = "rollout"
    """Hands the policy's weights over, draws a step's answers and rewards them."""
    STEP = "step"
    """One optimiser step."""
    EVALUATE = "evaluate"
    """Held-out rows after the last step; every batch restarts the clock."""
    SAVE = "save"
    """Writes a checkpoint or the finished model."""


def clocks(spec: Spec) -> dict[Phase, float]:
    """The seconds that each phase of a run may take."""
    return {
        Phase.READ: spec.read_timeout_seconds,
        Phase.REFERENCE: spec.step_timeout_seconds,
        Phase.RESTORE: spec.save_timeout_seconds,
        Phase.ROLLOUT: spec.rollout_timeout_seconds,
        Phase.STEP: spec.step_timeout_seconds,
        Phase.EVALUATE: spec.step_timeout_seconds,
        Phase.SAVE: spec.save_timeout_seconds,
    }


class Watchdog:
    """Ends the process, with the stacks of all threads, when a phase takes longer than its clock says.

    One rank that hangs in a collective blocks all others until the collective's own time-out, hours later, and none of
    them says where. Two watchers take turns, because a hang can hold the interpreter's lock:

    - a Python thread, which can still call `on_stall`, prints the stacks and exits with `EXIT_STALLED`;
    - faulthandler's C thread, which needs no lock, does so `LAST_RESORT_FACTOR` time-outs after the last beat.
    """

    def __init__(
        self, timeouts_seconds: Mapping[Phase, float], *, on_stall: Callable[[Phase, float], None] = lambda *_: None
    ) -> None:
        self._timeouts_seconds = timeouts_seconds
        self._on_stall = on_stall
        self._lock = threading.Lock()
        self._phase, self._beat_at = Phase.READ, time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def start(self, phase: Phase = Phase.READ) -> None:
        """Starts to watch; the clock of `phase` begins now."""
        self.enter(phase)
        self._thread.start()

    def enter(self, phase: Phase) -> None:
        """Begins a phase, with a fresh clock."""
        with self._lock:
            self._phase, self._beat_at = phase, time.monotonic()
        timeout_seconds = self._timeouts_seconds[phase] * LAST_RESORT_FACTOR
        faulthandler.dump_traceback_later(timeout_seconds, exit=True)

    def beat(self) -> None:
        """Restarts the clock of the present phase."""
        self.enter(self._phase)

    @contextlib.contextmanager
    def during(self, phase: Phase) -> Iterator[None]:
        """A phase within another one, whose clock is restarted at the end."""
        outer = self._phase
        self.enter(phase)
        try:
            yield
        finally:
            self.enter(outer)

    def stop(self) -> None:
        """Stops watching."""
        self._ended.set()
        faulthandler.cancel_dump_traceback_later()

    def _watch(self) -> None:
        while not self._ended.wait(min(1.0, *(seconds / 4 for seconds in self._timeouts_seconds.values()))):
            with self._lock:
                phase, silent_seconds = self._phase, time.monotonic() - self._beat_at
            if silent_seconds > self._timeouts_seconds[phase]:
                sys.stderr.write(f"stuck in phase {phase} for {silent_seconds:.1f} s; stacks of all threads follow\n")
                faulthandler.dump_traceback(all_threads=True)
                sys.stderr.flush()
                try:
                    self._on_stall(phase, self._timeouts_seconds[phase])
                finally:
                    # Not `sys.exit`: the main thread is stuck and would never get to raise it.
                    os._exit(EXIT_STALLED)
