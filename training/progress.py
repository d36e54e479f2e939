"""Progress of a run, reported while it is made.

A line per step and per evaluation goes to `progress.jsonl`, and a report every second to the training service. Reports
come from a thread of rank 0, so a long step still has a heartbeat. A report that fails is dropped: the next one says
more, and training never waits for the network.

An attempt that goes on from a checkpoint makes the steps after it again, and takes back what an earlier attempt wrote
of them: the file has each step once.
"""

import json
import logging
import math
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TextIO

from omnialign.client import Client
from omnialign.errors import FailedPrecondition, OmnialignError
from omnialign.v1.training_service_pb2 import TrainingProgress
from training.client import connection_of
from training.files import write_atomically
from training.spec import Spec

INTERVAL_SECONDS = 1.0
FILE = "progress.jsonl"

log = logging.getLogger(__name__)


class Progress:
    """What rank 0 knows of the run. Other ranks hold one too, which neither writes nor reports."""

    def __init__(self, spec: Spec, *, is_main: bool) -> None:
        self._spec = spec
        self._is_main = is_main
        self._lock = threading.Lock()
        self._ended = threading.Event()
        self._started_at, self._started_step = time.monotonic(), 0
        self._message = TrainingProgress()
        self._file = _open(spec.output_dir / FILE) if is_main else None
        self._thread = threading.Thread(target=self._report_until_ended, name="progress", daemon=True)
        self.stop_requested = threading.Event()

    def start(self) -> None:
        """Starts to report, on rank 0 of a run that has a `training_address`."""
        if self._is_main and self._spec.training_address:
            self._thread.start()

    def enter(self, phase: "TrainingProgress.Phase.ValueType", *, read: int = 0, total: int = 0) -> None:
        """Notes what the run does now; of reading, how many records are read, of how many (0: not known)."""
        with self._lock:
            self._message.phase = phase
            self._message.records_read, self._message.records_total = read, total

    def begin(self, *, step: int, total_steps: int) -> None:
        """Notes the step at which training begins; that of the checkpoint in a later attempt."""
        with self._lock:
            self._started_at, self._started_step = time.monotonic(), step
            self._message.phase = TrainingProgress.PHASE_TRAINING
            self._message.completed_steps, self._message.total_steps = step, total_steps
        if self._file is not None:
            self._file.close()
            drop_after(step, path=self._spec.output_dir / FILE)
            self._file = _open(self._spec.output_dir / FILE)

    def note_examples(self, count: int, *, held_out: int, dropped: Mapping[str, int]) -> None:
        """Notes what the run trains on, what it holds out, and what was dropped while the examples were made."""
        with self._lock:
            self._message.examples, self._message.held_out_examples = count, held_out
            self._message.dropped.update(dropped)

    def note_dropped(self, dropped: Mapping[str, int]) -> None:
        """Notes how many answers of the policy gave nothing to learn from so far, by reason."""
        with self._lock:
            self._message.dropped.update(dropped)

    def step(self, *, step: int, metrics: Mapping[str, float], tokens: int) -> None:
        """Notes a finished step."""
        with self._lock:
            self._message.completed_steps, self._message.tokens = step, tokens
            self._message.metrics.update({k: v for k, v in metrics.items() if math.isfinite(v)})
            # The pace is that of this attempt alone; steps before a restart took time that no clock here saw.
            done = step - self._started_step
            pace_seconds = (time.monotonic() - self._started_at) / max(done, 1)
            self._message.eta.FromMilliseconds(int(1000 * pace_seconds * (self._message.total_steps - step)))
        if self._file is not None:
            self._file.write(json.dumps({"step": step, "tokens": tokens, **metrics}) + "\n")
            self._file.flush()

    def evaluated(
        self, step: int, measures: Mapping[str, float], *, best_step: int, stopped_early: bool, is_new: bool = True
    ) -> None:
        """Notes an evaluation, and which step was the best so far; one that `is_new` also gets its line in the file."""
        with self._lock:
            self._message.metrics.update({k: v for k, v in measures.items() if math.isfinite(v)})
            self._message.evaluated_step, self._message.best_step = step, best_step
            self._message.stopped_early = stopped_early
        if self._file is not None and is_new:
            self._file.write(json.dumps({"step": step, **measures}) + "\n")
            self._file.flush()

    def close(self) -> None:
        """Sends a last report and stops."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=3 * INTERVAL_SECONDS)
        if self._file is not None:
            self._file.close()

    def _report_until_ended(self) -> None:
        connection = connection_of(self._spec.job, token=self._spec.token)
        with Client(self._spec.training_address, **connection) as client:
            while True:
                # The event is read before the report, so that the last report tells of the last step.
                ended = self._ended.wait(INTERVAL_SECONDS)
                self._report(client)
                if ended:
                    return

    def _report(self, client: Client) -> None:
        with self._lock:
            message = TrainingProgress()
            message.CopyFrom(self._message)
        message.heartbeat_time.GetCurrentTime()
        try:
            if client.report_progress(self._spec.job, message).stop_requested:
                self.stop_requested.set()
        except OmnialignError as error:
            log.debug("a progress report failed: %s", error)
        except Exception:
            log.warning("a progress report failed unexpectedly", exc_info=True)


def _open(path: Path) -> TextIO:
    path.parent.mkdir(parents=True, exist_ok=True)
    return path.open("a", encoding="utf-8")


def drop_after(step: int, *, path: Path) -> None:
    """Removes the lines of later steps from a progress file, and any that a crash cut short."""
    lines = path.read_text(encoding="utf-8").splitlines()
    kept = [line for line in lines if _step_of(line) <= step]
    if len(kept) < len(lines):
        write_atomically(path, "".join(f"{line}\n" for line in kept).encode())


def _step_of(line: str) -> float:
    """The step of a line; infinity for a line that has none."""
    try:
        return int(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return math.inf


def require_finite(metrics: Mapping[str, float], *, step: int) -> None:
    """Raises `FailedPrecondition` (LOSS_NOT_FINITE) when the loss or the gradient norm is NaN or infinite."""
    for name in ("loss", "grad_norm"):
        value = metrics.get(name, 0.0)
        # DeepSpeed writes -1 for a norm that is NaN or infinite.
        if not math.isfinite(value) or (name == "grad_norm" and value < 0):
            raise FailedPrecondition(
                f"{name} is {value} at step {step}: lower learning_rate or check the data",
                reason="LOSS_NOT_FINITE",
                metadata={"measure": name, "value": str(value), "step": str(step)},
            )
