"""The threads that run the models: they form batches and let each running one take a step in turn.

The arithmetic has threads of its own, so that the event loop stays free. Each of them, a lane, runs its own batches;
on a CPU several lanes of one core each beat one lane of several cores for small models, because nothing in a step
waits for another core. A lane may run several batches at once, of one model or of several: a new one starts as soon as
rows are free, without waiting for the stragglers of the last one. Cancelled requests leave the queue at once and a
running batch at its next step.
"""

import logging
import os
import threading
import time
from collections.abc import Sequence
from weakref import WeakKeyDictionary

import torch

from omnialign.errors import Internal, OmnialignError
from services.inference.config import EngineConfig
from services.inference.errors import OutOfMemory, engine_closed, is_out_of_memory, queue_full
from services.inference.metrics import FINISH_OUTCOMES, EngineMetrics
from services.inference.transformers.admission import Outcome, Ticket, Written, cache_bytes, choose
from services.inference.transformers.batch import Batch
from services.inference.transformers.loading import LoadedModel

log = logging.getLogger(__name__)

MOST_LANES = 4
WORTH_SPLITTING = 16
"""Requests from which on a lane leaves some to the lanes that have nothing to do."""


class Lane:
    """A thread with the batches that it runs, each with the bytes set aside for its cache."""

    def __init__(self) -> None:
        self.batches: list[tuple[Batch, int]] = []
        self.thread: threading.Thread | None = None

    def rows(self, loaded: LoadedModel) -> int:
        """Rows of a model that run here, deterministic requests aside."""
        return sum(len(batch.rows) for batch, _ in self.batches if batch.loaded is loaded and not batch.deterministic)


class Scheduler:
    """Runs tickets in batches on its own threads, which `start` starts and `close` ends."""

    def __init__(self, config: EngineConfig, metrics: EngineMetrics, *, on_cpu: bool) -> None:
        self._config, self._metrics = config, metrics
        self._changed = threading.Condition()
        self._waiting: list[Ticket] = []
        self._closed = False
        self._most_rows: WeakKeyDictionary[LoadedModel, int] = WeakKeyDictionary()
        cores = usable_cores()
        self._lanes = [Lane() for _ in range(config.lanes or (min(cores, MOST_LANES) if on_cpu else 1))]
        self._threads_per_lane = config.threads or max(1, cores // len(self._lanes))

    def start(self) -> None:
        """Starts the threads."""
        self._metrics.queue_age.set_function(self._oldest_seconds)
        self._metrics.queue_depth.set_function(lambda: len(self._waiting))
        self._metrics.cache_budget_bytes.set(self._config.cache_budget_bytes)
        self._metrics.cache_bytes.set_function(
            lambda: sum(size_bytes for lane in self._lanes for _, size_bytes in list(lane.batches))
        )
        self._metrics.rows_running.set_function(
            lambda: sum(len(batch.rows) for lane in self._lanes for batch, _ in list(lane.batches))
        )
        for index, lane in enumerate(self._lanes):
            lane.thread = threading.Thread(target=self._run, args=(lane,), name=f"omnialign-lane-{index}", daemon=True)
            lane.thread.start()

    def submit(self, tickets: Sequence[Ticket]) -> None:
        """Queues tickets. Raises ResourceExhausted QUEUE_FULL or Unavailable ENGINE_CLOSED, and then queues none."""
        with self._changed:
            if self._closed:
                raise engine_closed()
            if len(self._waiting) + len(tickets) > self._config.max_waiting:
                raise queue_full(len(self._waiting), len(tickets), self._config.max_waiting)
            self._waiting += tickets
            self._changed.notify_all()

    def cancel(self, tickets: Sequence[Ticket]) -> None:
        """Drops tickets, queued or running; nothing more is delivered for them once the running step is over."""
        with self._changed:
            for ticket in tickets:
                ticket.cancelled = True
            before = len(self._waiting)
            self._waiting = [ticket for ticket in self._waiting if not ticket.cancelled]
            self._metrics.requests.labels("cancelled").inc(before - len(self._waiting))

    def close(self) -> None:
        """Ends the threads after their current step; what is not done fails with ENGINE_CLOSED."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for lane in self._lanes:
            if lane.thread is not None:
                lane.thread.join()
        self._fail_all()

    def _run(self, lane: Lane) -> None:
        torch.set_num_threads(self._threads_per_lane)
        while self._next(lane):
            for batch, _ in lane.batches:
                self._advance(batch)
            if any(batch.done for batch, _ in lane.batches):
                with self._changed:
                    lane.batches = [entry for entry in lane.batches if not entry[0].done]
                    self._changed.notify_all()  # there is room

    def _next(self, lane: Lane) -> bool:
        """Waits for something to do and starts the batches that fit; False when closed."""
        with self._changed:
            while not self._closed:
                if self._waiting and not any(other.batches for other in self._lanes):
                    self._changed.wait_for(lambda: self._closed, timeout=self._config.linger_seconds)
                if self._closed:  # nobody would wake us any more
                    break
                for loaded in dict.fromkeys(ticket.loaded for ticket in self._waiting):
                    self._admit(lane, loaded)
                if lane.batches:
                    break
                self._changed.wait()
            return not self._closed

    def _admit(self, lane: Lane, loaded: LoadedModel) -> None:
        """Starts batches of one model in a lane while rows and memory are free."""
        while waiting := [ticket for ticket in self._waiting if ticket.loaded is loaded]:
            rows = self._free_rows(lane, loaded, len(waiting))
            if waiting[0].group is None and not rows:
                return
            running = [size_bytes for other in self._lanes for _, size_bytes in other.batches]
            free_bytes = self._config.cache_budget_bytes - sum(running)
            rows = min(rows, self._most_rows.get(loaded, rows))
            tickets = choose(waiting, max_rows=rows, max_bytes=free_bytes)
            if not tickets:
                return
            self._start(lane, tickets)

    def _free_rows(self, lane: Lane, loaded: LoadedModel, waiting: int) -> int:
        """Rows of a model that the lane may start now: none unless they make a batch worth its overhead."""
        most = max(1, self._config.max_batch_rows // len(self._lanes))
        free = most - lane.rows(loaded)
        if free < min(waiting, max(1, most // 4)):
            return 0
        idle = sum(not other.batches for other in self._lanes if other is not lane)
        return free if waiting < WORTH_SPLITTING else min(free, -(-waiting // (idle + 1)))

    def _start(self, lane: Lane, tickets: list[Ticket]) -> None:
        batch = Batch(tickets, prefill_tokens=self._config.prefill_tokens, deterministic=tickets[0].group is not None)
        lane.batches.append((batch, cache_bytes(tickets)))
        chosen = set(tickets)
        self._waiting = [ticket for ticket in self._waiting if ticket not in chosen]
        self._metrics.batch_rows.observe(len(tickets))
        for ticket in tickets:
            self._metrics.queue_wait.observe(batch.started_at - ticket.queued_at)

    def _advance(self, batch: Batch) -> None:
        """One step of a batch. What breaks it fails its own requests and nothing else."""
        try:
            before = len(batch.rows)
            ended = batch.advance()
            cancelled = before - len(batch.rows) - len(ended)
            self._metrics.requests.labels("cancelled").inc(cancelled)
        except Exception as error:  # a kernel, the driver or the model's code: all sorts
            ended = []
            rows, batch.rows = batch.rows, []
            self._give_up(batch, [row.ticket for row in rows], error)
        for ticket, written in ended:
            self._deliver(ticket, written)

    def _give_up(self, batch: Batch, tickets: list[Ticket], error: Exception) -> None:
        """Ends a batch that broke. One too large for the device's memory is begun again in halves, then its like too.

        Nothing is lost by that but time: what a request gets does not depend on who else is in its batch.
        """
        if not is_out_of_memory(error) or len(tickets) < 2 or batch.deterministic:
            for ticket in tickets:
                self._deliver(ticket, broken(error))
            return
        log.warning("out of memory with %d rows; going on with half as many", len(tickets))
        for ticket in tickets:
            if ticket.read:  # its features are gone
                self._deliver(ticket, broken(error))
        with self._changed:
            self._most_rows[batch.loaded] = len(tickets) // 2
            self._waiting = [ticket for ticket in tickets if not ticket.read] + self._waiting
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _deliver(self, ticket: Ticket, outcome: Outcome) -> None:
        if isinstance(outcome, Written):
            self._metrics.tokens.labels("in").inc(len(ticket.ids))
            self._metrics.tokens.labels("out").inc(len(outcome.ids))
            self._metrics.requests.labels(FINISH_OUTCOMES[outcome.finish_reason]).inc()
            self._metrics.generation.observe(outcome.seconds)
        else:
            self._metrics.requests.labels("error").inc()
        ticket.deliver(ticket, outcome)

    def _fail_all(self) -> None:
        """Fails what is left when the threads have ended."""
        running = [row.ticket for lane in self._lanes for batch, _ in lane.batches for row in batch.rows]
        left, self._waiting = running + self._waiting, []
        for lane in self._lanes:
            lane.batches = []
        for ticket in left:
            self._deliver(ticket, engine_closed())

    def _oldest_seconds(self) -> float:
        waiting = self._waiting
        return time.monotonic() - waiting[0].queued_at if waiting else 0.0


def usable_cores() -> int:
    """Cores that this process may run on, where the system tells; all of them elsewhere."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def broken(error: Exception) -> OmnialignError:
    """The error of the requests whose batch broke."""
    if is_out_of_memory(error):
        return OutOfMemory("The device ran out of memory on this request alone; lower the engine's cache budget.")
    return Internal(f"The model failed: {type(error).__name__}: {error}", reason="GENERATION_FAILED")
