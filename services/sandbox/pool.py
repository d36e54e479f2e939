"""The sandbox of a process: a few children that run tasks on untrusted bytes.

Most tasks take milliseconds, and a hostile one takes as long as it may. So that the second kind never keeps the first
one waiting, a task that has run for half a second gives its place to the next one and goes on at the lowest priority.
A key that has ended two processes is refused without a third.
"""

import asyncio
import logging
import os
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

from prometheus_client import CollectorRegistry, Counter, Histogram

from omnialign.errors import OmnialignError, Unavailable
from services.sandbox.limits import Limits
from services.sandbox.worker import Function, Worker, WorkerDied

T = TypeVar("T")
Refusal = Callable[[str], OmnialignError]
"""Makes the error for a task whose process ended, from the end of a sentence such as "crashed (SIGSEGV)"."""

QUICK_SECONDS = 0.5
"""Time after which a task gives up its place, but goes on."""
SLOW_PER_PLACE = 4
"""Number of tasks for each place that may go on without one."""
WATCH_SECONDS = 0.1
MAX_WAITING = 64
"""Number of threads that wait for children; they cost little."""
DEATHS_BEFORE_REFUSAL = 2
MAX_REMEMBERED_KEYS = 10_000
TASK_SECONDS = (0.001, 0.01, 0.1, 0.5, 2.0, 10.0, 60.0)

log = logging.getLogger(__name__)


class SandboxMetrics:
    """What the children did, by the function that they ran."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.deaths = Counter(
            "omnialign_sandbox_deaths_total",
            "Child processes that ended in the middle of an operation.",
            ["operation"],
            registry=registry,
        )
        self.seconds = Histogram(
            "omnialign_sandbox_task_duration_seconds",
            "Time of a task in a child process, without the wait for one.",
            ["operation"],
            buckets=TASK_SECONDS,
            registry=registry,
        )


class Sandbox:
    """Runs functions in child processes. Safe for threads. Children are started when needed and end when idle.

    `places` is the number of tasks that run at full priority at the same time.
    """

    def __init__(
        self,
        *,
        places: int = 0,
        limits: Limits = Limits(),  # noqa: B008 - it is frozen
        metrics: SandboxMetrics | None = None,
    ) -> None:
        self._metrics = metrics or SandboxMetrics(CollectorRegistry())
        self._places = places or max(2, os.cpu_count() or 1)
        self._limits = limits
        self._changed = threading.Condition()
        self._idle: list[Worker] = []
        self._running: dict[Worker, Limits] = {}
        self._deaths: OrderedDict[str, int] = OrderedDict()
        self._is_closed = False
        self._threads = ThreadPoolExecutor(MAX_WAITING, thread_name_prefix="omnialign-sandbox")
        self._watch: threading.Thread | None = None

    def call(
        self, function: Callable[..., T], *args: object, refusal: Refusal, key: str = "", limits: Limits | None = None
    ) -> T:
        """Calls a function of a module in a child, and returns its result (blocking).

        Arguments and the result are data: numbers, texts, bytes, arrays, data classes. `key` identifies the bytes that
        the task reads. Raises the OmnialignError of the function, `refusal` if the process ended, and Unavailable
        SANDBOX_BUSY or SANDBOX_CLOSED.
        """
        with self._task(function, refusal, key, limits or self._limits) as worker:
            result: T = worker.call(function, args, limits or self._limits)
            return result

    async def in_thread(self, function: Callable[..., T], *args: object) -> T:
        """Calls a function that blocks on this sandbox in a thread that is kept for that."""
        return await asyncio.get_running_loop().run_in_executor(self._threads, function, *args)

    def submit(self, function: Callable[[], object]) -> None:
        """Calls such a function without waiting for it. Raises RuntimeError after `close`."""
        self._threads.submit(function)

    def iterate(
        self, function: Function, *args: object, refusal: Refusal, key: str = "", limits: Limits | None = None
    ) -> Generator[Any, None, None]:
        """What a generator function yields in a child, item by item; each item has the limits to itself (blocking)."""
        with self._task(function, refusal, key, limits or self._limits) as worker:
            try:
                for item in worker.iterate(function, args, limits or self._limits):
                    with self._changed:
                        self._changed.notify_all()  # until the next item is wanted, the child holds no place
                    yield item
            except GeneratorExit:  # the caller wants no more items, and the child still waits to send the next one
                worker.end()
                raise

    @contextmanager
    def _task(self, function: Function, refusal: Refusal, key: str, limits: Limits) -> Iterator[Worker]:
        """A child for one task. Turns its death into the task's error."""
        if key and self._deaths.get(key, 0) >= DEATHS_BEFORE_REFUSAL:
            raise refusal(f"ended {DEATHS_BEFORE_REFUSAL} times before")
        worker = self._acquire(limits)
        try:
            with self._metrics.seconds.labels(function.__name__).time():
                yield worker
        except WorkerDied as death:
            cause = "took too long" if worker.overran else death.cause
            self._remember_death(key)
            self._metrics.deaths.labels(function.__name__).inc()
            log.warning("the process of %s %s", function.__name__, cause, extra={"key": key})
            raise refusal(cause) from death
        finally:
            self._release(worker)

    def close(self) -> None:
        """Ends all children. Tasks that still run fail."""
        with self._changed:
            self._is_closed = True
            for worker in self._running:
                worker.kill()
            self._changed.notify_all()
        for worker in self._idle:
            worker.end()
        self._threads.shutdown(wait=False, cancel_futures=True)

    def _acquire(self, limits: Limits) -> Worker:
        """An idle child, or a new one, once fewer than `places` tasks run that still hold theirs."""
        with self._changed:
            is_free = self._changed.wait_for(lambda: self._is_closed or self._has_place(), limits.wall_seconds)
            if self._is_closed or not is_free:
                reason = "SANDBOX_CLOSED" if self._is_closed else "SANDBOX_BUSY"
                raise Unavailable("No process is free to read the file now: try again later.", reason=reason)
            worker = self._living() or Worker()
            worker.started_seconds = time.monotonic()
            self._running[worker] = limits
            if self._watch is None:
                self._watch = threading.Thread(target=self._watch_tasks, name="omnialign-sandbox-watch", daemon=True)
                self._watch.start()
            self._changed.notify_all()
            return worker

    def _has_place(self) -> bool:
        return sum(not (worker.is_slow or worker.is_waiting) for worker in self._running) < self._places

    def _living(self) -> Worker | None:
        while self._idle:
            if (worker := self._idle.pop()).is_alive:
                return worker
            worker.end()
        return None

    def _release(self, worker: Worker) -> None:
        with self._changed:
            del self._running[worker]
            # A demoted child cannot get its priority back, so it is not used again.
            keep = worker.is_alive and not worker.is_slow and not worker.overran and not self._is_closed
            if keep:
                self._idle.append(worker)
            self._changed.notify_all()
        if not keep:
            worker.end()

    def _watch_tasks(self) -> None:
        """Demotes tasks that are not quick, as many as may go on so, and ends those that take too long."""
        while not self._is_closed:
            with self._changed:
                self._changed.wait_for(lambda: self._running or self._is_closed)
                now = time.monotonic()
                num_slow = sum(worker.is_slow for worker in self._running)
                for worker, limits in self._running.items():
                    if worker.is_waiting:
                        continue
                    seconds = now - worker.started_seconds
                    if seconds > limits.wall_seconds:
                        worker.kill()
                    elif seconds > QUICK_SECONDS and not worker.is_slow and num_slow < self._places * SLOW_PER_PLACE:
                        worker.demote()
                        num_slow += 1
                        self._changed.notify_all()
            # Not a wait on the condition: every task notifies it, and a look at each would cost more than it finds.
            time.sleep(WATCH_SECONDS)

    def _remember_death(self, key: str) -> None:
        if not key or self._is_closed:
            return
        with self._changed:
            self._deaths[key] = self._deaths.get(key, 0) + 1
            self._deaths.move_to_end(key)
            while len(self._deaths) > MAX_REMEMBERED_KEYS:
                self._deaths.popitem(last=False)
