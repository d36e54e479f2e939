"""The scheduler: worker threads that form batches and let each running batch take a step in turn.

The arithmetic has threads of its own, so that the event loop stays free. Each worker runs its own batches. On a CPU,
several workers of one core each beat one worker of several cores for small models, because nothing in a step waits for
another core. A worker may run several batches at once, of one model or of several: a new one starts as soon as rows are
free, without waiting for the last rows of an old one (continuous batching). Cancelled requests leave the queue at once,
and a running batch at its next step.
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
from services.inference.transformers.admission import Completion, Outcome, SequenceRequest, cache_bytes, choose_batch
from services.inference.transformers.batch import Batch
from services.inference.transformers.loading import LoadedModel

log = logging.getLogger(__name__)

MAX_CPU_WORKERS = 4
MIN_REQUESTS_TO_SHARE = 16
"""Requests in the queue from which on a worker leaves some of them to idle workers."""


class Worker:
    """A thread with the batches that it runs, each with the bytes reserved for its cache."""

    def __init__(self) -> None:
        self.batches: list[tuple[Batch, int]] = []
        self.thread: threading.Thread | None = None

    def rows(self, loaded: LoadedModel) -> int:
        """Rows of a model that run here, deterministic requests aside."""
        return sum(len(batch.rows) for batch, _ in self.batches if batch.loaded is loaded and not batch.deterministic)


class Scheduler:
    """Runs requests in batches on its own threads, which `start` starts and `close` ends.

    One condition, `_changed`, guards the queue and the lists of batches. A step runs without it: a batch belongs to one
    worker, and others only read its number of rows.
    """

    def __init__(self, config: EngineConfig, metrics: EngineMetrics, *, on_cpu: bool) -> None:
        self._config, self._metrics = config, metrics
        self._changed = threading.Condition()
        self._waiting: list[SequenceRequest] = []  # oldest first
        self._closed = False
        self._row_limits: WeakKeyDictionary[LoadedModel, int] = WeakKeyDictionary()  # learnt from running out of memory
        cores = usable_cores()
        self._workers = [Worker() for _ in range(config.lanes or (min(cores, MAX_CPU_WORKERS) if on_cpu else 1))]
        self._threads_per_worker = config.threads or max(1, cores // len(self._workers))

    def start(self) -> None:
        """Starts the threads."""
        self._metrics.queue_age.set_function(self._oldest_seconds)
        self._metrics.queue_depth.set_function(lambda: len(self._waiting))
        self._metrics.cache_budget_bytes.set(self._config.cache_budget_bytes)
        self._metrics.cache_bytes.set_function(
            lambda: sum(size_bytes for worker in self._workers for _, size_bytes in list(worker.batches))
        )
        self._metrics.rows_running.set_function(
            lambda: sum(len(batch.rows) for worker in self._workers for batch, _ in list(worker.batches))
        )
        for index, worker in enumerate(self._workers):
            name = f"omnialign-worker-{index}"
            worker.thread = threading.Thread(target=self._run, args=(worker,), name=name, daemon=True)
            worker.thread.start()

    def submit(self, requests: Sequence[SequenceRequest]) -> None:
        """Queues requests, all or none. Raises ResourceExhausted QUEUE_FULL or Unavailable ENGINE_CLOSED."""
        with self._changed:
            if self._closed:
                raise engine_closed()
            if len(self._waiting) + len(requests) > self._config.max_waiting:
                raise queue_full(waiting=len(self._waiting), new=len(requests), bound=self._config.max_waiting)
            self._waiting += requests
            self._changed.notify_all()

    def cancel(self, requests: Sequence[SequenceRequest]) -> None:
        """Drops requests, queued or running; nothing is delivered for them once the current step is over."""
        with self._changed:
            for request in requests:
                request.cancelled = True
            before = len(self._waiting)
            self._waiting = [request for request in self._waiting if not request.cancelled]
            self._metrics.requests.labels("cancelled").inc(before - len(self._waiting))

    def close(self) -> None:
        """Ends the threads after their current step; requests that are not finished fail with ENGINE_CLOSED."""
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for worker in self._workers:
            if worker.thread is not None:
                worker.thread.join()
        self._fail_all()

    def _run(self, worker: Worker) -> None:
        """The loop of one worker: starts batches that fit, and gives every batch one step per round."""
        torch.set_num_threads(self._threads_per_worker)
        while self._wait_for_work(worker):
            for batch, _ in worker.batches:
                self._advance(batch)
            if any(batch.done for batch, _ in worker.batches):
                with self._changed:
                    worker.batches = [entry for entry in worker.batches if not entry[0].done]
                    self._changed.notify_all()  # rows and cache memory are free

    def _wait_for_work(self, worker: Worker) -> bool:
        """Starts the batches that fit, and waits until there is something to run; False when closed."""
        with self._changed:
            while not self._closed:
                # An idle engine waits a moment before its first batch: calls tend to arrive together, and a batch of
                # the first one alone would hold up the others. While it is busy, requests collect by themselves.
                if self._waiting and not any(other.batches for other in self._workers):
                    self._changed.wait_for(lambda: self._closed, timeout=self._config.linger_seconds)
                if self._closed:  # nobody would notify us any more
                    break
                for loaded in dict.fromkeys(request.loaded for request in self._waiting):
                    self._admit(worker, loaded)
                if worker.batches:
                    break
                self._changed.wait()
            return not self._closed

    def _admit(self, worker: Worker, loaded: LoadedModel) -> None:
        """Starts batches of one model on a worker while rows and memory are free."""
        while waiting := [request for request in self._waiting if request.loaded is loaded]:
            rows = self._free_rows(worker, loaded, len(waiting))
            if waiting[0].group is None and not rows:
                return
            reserved = [size_bytes for other in self._workers for _, size_bytes in other.batches]
            free_bytes = self._config.cache_budget_bytes - sum(reserved)
            rows = min(rows, self._row_limits.get(loaded, rows))
            requests = choose_batch(waiting, max_rows=rows, max_bytes=free_bytes)
            if not requests:
                return
            self._start(worker, requests)

    def _free_rows(self, worker: Worker, loaded: LoadedModel, num_waiting: int) -> int:
        """Rows of a model that the worker may start now; 0 unless they make a batch worth its overhead."""
        most = max(1, self._config.max_batch_rows // len(self._workers))
        free = most - worker.rows(loaded)
        # Every batch costs a forward pass per step, however few its rows are. So a few free rows are left free until
        # they are a quarter of a full batch, or enough for all that waits.
        if free < min(num_waiting, max(1, most // 4)):
            return 0
        num_idle = sum(not other.batches for other in self._workers if other is not worker)
        return free if num_waiting < MIN_REQUESTS_TO_SHARE else min(free, -(-num_waiting // (num_idle + 1)))

    def _start(self, worker: Worker, requests: list[SequenceRequest]) -> None:
        deterministic = requests[0].group is not None
        batch = Batch(requests, prefill_tokens=self._config.prefill_tokens, deterministic=deterministic)
        worker.batches.append((batch, cache_bytes(requests)))
        chosen = set(requests)
        self._waiting = [request for request in self._waiting if request not in chosen]
        self._metrics.batch_rows.observe(len(requests))
        for request in requests:
            self._metrics.queue_wait.observe(batch.started_at - request.queued_at)

    def _advance(self, batch: Batch) -> None:
        """One step of a batch. An error in it fails the requests of that batch and nothing else."""
        try:
            before = len(batch.rows)
            ended = batch.advance()
            cancelled = before - len(batch.rows) - len(ended)
            self._metrics.requests.labels("cancelled").inc(cancelled)
        except Exception as error:  # of a kernel, the driver or the model's code
            ended = []
            rows, batch.rows = batch.rows, []
            self._abandon(batch, [row.request for row in rows], error)
        for request, completion in ended:
            self._deliver(request, completion)

    def _abandon(self, batch: Batch, requests: list[SequenceRequest], error: Exception) -> None:
        """Ends a batch that broke. One that ran out of memory starts over in halves, and these in halves if need be.

        That loses nothing but time: the answer to a request does not depend on who else is in its batch.
        """
        if not is_out_of_memory(error) or len(requests) < 2 or batch.deterministic:
            for request in requests:
                self._deliver(request, generation_error(error))
            return
        log.warning("out of memory with %d rows; going on with half as many", len(requests))
        for request in requests:
            if request.features_freed:  # it cannot start over
                self._deliver(request, generation_error(error))
        with self._changed:
            self._row_limits[batch.loaded] = len(requests) // 2
            self._waiting = [request for request in requests if not request.features_freed] + self._waiting
        if torch.cuda.is_available():
            torch.cuda.empty_cache()

    def _deliver(self, request: SequenceRequest, outcome: Outcome) -> None:
        if isinstance(outcome, Completion):
            self._metrics.tokens.labels("in").inc(len(request.ids))
            self._metrics.tokens.labels("out").inc(len(outcome.ids))
            self._metrics.requests.labels(FINISH_OUTCOMES[outcome.finish_reason]).inc()
            self._metrics.generation.observe(outcome.seconds)
        else:
            self._metrics.requests.labels("error").inc()
        request.deliver(request, outcome)

    def _fail_all(self) -> None:
        """Fails all that is left, once the threads have ended."""
        running = [row.request for worker in self._workers for batch, _ in worker.batches for row in batch.rows]
        left, self._waiting = running + self._waiting, []
        for worker in self._workers:
            worker.batches = []
        for request in left:
            self._deliver(request, engine_closed())

    def _oldest_seconds(self) -> float:
        waiting = self._waiting
        return time.monotonic() - waiting[0].queued_at if waiting else 0.0


def usable_cores() -> int:
    """Cores that this process may run on, where the system says; elsewhere all cores."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def generation_error(error: Exception) -> OmnialignError:
    """The error for the requests of a batch that broke."""
    if is_out_of_memory(error):
        return OutOfMemory("The device ran out of memory on this request alone; lower the engine's cache budget.")
    return Internal(f"The model failed: {type(error).__name__}: {error}", reason="GENERATION_FAILED")
