"""One child process that runs tasks, seen from both sides.

Children are forked from a clean server process (`multiprocessing`'s forkserver) that holds the libraries in memory: a
new one is ready within milliseconds, shares their memory, and has none of the service's threads, sockets or secrets.
A task is a function named by module, its arguments, and its limits:

    service -> child    (module, function, arguments, limits)
    child -> service    ("result", value), or ("error", error)
                        of a generator: ("item", value), each answered with "next", and finally ("end", None)
"""

import gc
import importlib
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pickle import UnpicklingError
from types import GeneratorType, ModuleType
from typing import Any

from omnialign.errors import Internal, OmnialignError
from services.sandbox import transfer
from services.sandbox.limits import NO_MEMORY_EXIT_CODE, Limits, cause_of, enforce, harden

IDLE_SECONDS = 60.0
"""Time after which a child without work ends, to give back its memory."""
LOWEST_PRIORITY = 19
_preloaded = {"omnialign.modeling.decoding", "pyarrow.parquet", "services.sandbox.worker"}

Function = Callable[..., Any]


def preload(*modules: str) -> None:
    """Has the server of children import modules before it forks the first one, so that no child needs to."""
    _preloaded.update(modules)


def start_server() -> None:
    """Starts the server of children ahead of the first one: half a second passes until it has imported the modules."""
    multiprocessing.get_context("forkserver").set_forkserver_preload(sorted(_preloaded))
    forkserver.ensure_running()


class WorkerDied(Exception):
    """The child ended in the middle of a task, or was ended; `exit_code` is negative for a signal."""

    def __init__(self, exit_code: int | None, *, why: str = "") -> None:
        super().__init__(f"exit code {exit_code}")
        self.cause = why or cause_of(exit_code)


class Worker:
    """A child process, as its service sees it. One task at a time."""

    def __init__(self) -> None:
        start_server()
        context = multiprocessing.get_context("forkserver")
        self._connection, theirs = context.Pipe()
        self._process = context.Process(target=serve, args=(theirs,), name="omnialign-sandbox", daemon=True)
        with _without_main():
            self._process.start()
        theirs.close()
        self.started_seconds = 0.0
        """When the current task or item began, on the monotonic clock."""
        self.is_slow = False
        self.is_waiting = False
        """Whether the child waits for its reader to want the next item; then it neither needs nor holds a place."""
        self.overran = False

    @property
    def is_alive(self) -> bool:
        """Whether the process runs."""
        return self._process.is_alive()

    def call(self, function: Function, args: Sequence[object], limits: Limits) -> Any:
        """The result of a task. Raises the error of the task, or WorkerDied."""
        self._send((function.__module__, function.__qualname__, tuple(args), limits))
        return self._receive()[1]

    def iterate(self, function: Function, args: Sequence[object], limits: Limits) -> Iterator[Any]:
        """The items of a task that is a generator, one by one. Raises the error of the task, or WorkerDied."""
        self._send((function.__module__, function.__qualname__, tuple(args), limits))
        while (message := self._receive())[0] == "item":
            self.is_waiting = True
            yield message[1]
            self._send("next")  # one item at a time: the reader sets the pace

    def _send(self, message: object) -> None:
        self.started_seconds, self.is_waiting = time.monotonic(), False
        try:
            transfer.send(self._connection, message)
        except OSError as error:
            raise WorkerDied(self.end()) from error

    def _receive(self) -> tuple[str, Any]:
        """The next message that is no error. Raises the error of the task, or WorkerDied."""
        try:
            kind, value = transfer.receive(self._connection, trusted=False)
        except (EOFError, OSError) as error:
            raise WorkerDied(self.end()) from error
        except (UnpicklingError, ValueError, TypeError) as error:  # it was taken over, and lies
            self.end()
            raise WorkerDied(None, why=f"sent what may not be sent ({error})") from error
        if kind != "error":
            return kind, value
        if not isinstance(value, OmnialignError):
            raise WorkerDied(self.end())
        raise value

    def demote(self) -> None:
        """Gives the process the lowest priority, for good: only root could raise it again."""
        self.is_slow = True
        with suppress(ProcessLookupError):
            os.setpriority(os.PRIO_PROCESS, self._process.pid or 0, LOWEST_PRIORITY)

    def kill(self) -> None:
        """Kills the process for taking too long; the task that it runs raises WorkerDied."""
        self.overran = True
        self._process.kill()

    def end(self) -> int | None:
        """Ends the process, and returns its exit code."""
        self._connection.close()
        self._process.join(timeout=0.5)
        if self._process.is_alive():
            self._process.kill()
            self._process.join()
        return self._process.exitcode


@contextmanager
def _without_main() -> Iterator[None]:
    """Hides the program's main module, which a child would import first: that of a service imports all of it."""
    main = sys.modules["__main__"]
    sys.modules["__main__"] = ModuleType("__main__")
    try:
        yield
    finally:
        sys.modules["__main__"] = main


def serve(connection: Connection) -> None:
    """The child: runs one task after another until the service closes the connection or sends nothing for a while."""
    harden()
    gc.freeze()  # the libraries stay: to look through them for what can be freed takes a tenth of a task's time
    with suppress(EOFError, OSError):
        while connection.poll(IDLE_SECONDS):
            module, name, args, limits = transfer.receive(connection, trusted=True)
            try:
                _run(connection, getattr(importlib.import_module(module), name), args, limits)
            except MemoryError:
                os._exit(NO_MEMORY_EXIT_CODE)  # too little memory is left to say so in words
            except OmnialignError as error:
                transfer.send(connection, ("error", error))
            except Exception as error:
                transfer.send(connection, ("error", _unforeseen(name, error)))


def _run(connection: Connection, function: Function, args: Sequence[Any], limits: Limits) -> None:
    enforce(limits)
    result = function(*args)
    if not isinstance(result, GeneratorType):
        transfer.send(connection, ("result", result))
        return
    for item in result:
        transfer.send(connection, ("item", item))
        transfer.receive(connection, trusted=True)
        enforce(limits)  # each item has the limits to itself: a file may be long
    transfer.send(connection, ("end", None))


def _unforeseen(task: str, error: Exception) -> Internal:
    message = f"The task {task} met an unforeseen {type(error).__name__}: {error}"
    return Internal(message, reason="SANDBOX_TASK_FAILED", metadata={"task": task, "error": type(error).__name__})
