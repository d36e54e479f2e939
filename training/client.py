"""How a training job calls the services: in its own name, over TLS where its environment says so, and patiently.

A run and its pods hold one token, which speaks for the job and for nothing else. The TLS variables are those that the
services themselves read (`OMNIALIGN_PEER_*`).

Retries: `AsyncClient` repeats a single call for about a second, which hides a broken connection. It cannot repeat what
is made of many calls, such as reading a dataset to its end. `retry_while_away` does, for as long as a service may take
to be restarted or moved, and is the only layer that does so.
"""

import asyncio
import logging
import os
import threading
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TypedDict, TypeVar

from omnialign import names
from omnialign.client import AsyncClient, Client
from omnialign.errors import Cancelled, DeadlineExceeded, OmnialignError, ResourceExhausted, Unavailable
from omnialign.retry import RetryPolicy
from omnialign.v1.training_service_pb2 import TrainingProgress
from training.launch import TLS_VARIABLES
from training.pod_paths import PodDocument

HEARTBEAT_SECONDS = 5.0
FETCH_SECONDS = 1800.0
"""How long fetching the base model may take, retries included."""
STOP_POLL_SECONDS = 0.2
POD_RETRIES = RetryPolicy(base_seconds=0.5, cap_seconds=15.0)
"""Retries of a pod; each operation brings its own budget."""
SERVICE_RETRIES = RetryPolicy(base_seconds=0.5, cap_seconds=15.0, budget_seconds=600.0)
"""Retries of what a step asks of the services: long enough for one that is restarted or moved."""
TRANSIENT = (Unavailable, Cancelled, DeadlineExceeded, ResourceExhausted)
"""Errors of an operation that may pass: a service that restarts cancels its calls, a full bucket gets emptied."""

T = TypeVar("T")
log = logging.getLogger(__name__)


class Connection(TypedDict):
    """The arguments of a client besides its address."""

    project: str
    token: str | None
    tls: bool
    ca_file: Path | None
    certificate_file: Path | None
    key_file: Path | None


def connection_of(job: str, *, token: str, environ: Mapping[str, str] = os.environ) -> Connection:
    """How to call as `job`, a resource name. Connections are plain unless `environ` names certificates."""
    files = [Path(environ[name]) if environ.get(name) else None for name in TLS_VARIABLES]
    is_resource = names.matches(job, names.TRAINING_JOB)
    return Connection(
        project=names.parse(job, names.TRAINING_JOB)["project"] if is_resource else "default",
        token=token or None,
        tls=files[0] is not None,
        ca_file=files[0],
        certificate_file=files[1],
        key_file=files[2],
    )


async def retry_while_away(
    work: Callable[[], Awaitable[T]],
    *,
    policy: RetryPolicy,
    what: str,
    transient: tuple[type[OmnialignError], ...] = (Unavailable,),
    deadline_seconds: float | None = None,
) -> T:
    """The result of `work`, which is repeated after a `transient` error for as long as `policy` allows.

    `what` names the work in the log and in errors. Raises the last error, and `Unavailable` (SERVICE_UNAVAILABLE) once
    `deadline_seconds` have passed, retries included.
    """
    expiry = None if deadline_seconds is None else time.monotonic() + deadline_seconds
    retries = policy.start()
    while True:
        try:
            async with asyncio.timeout(None if expiry is None else max(expiry - time.monotonic(), 0.001)):
                return await work()
        except TimeoutError as error:
            raise Unavailable(
                f"{what} took longer than {deadline_seconds:g} s", reason="SERVICE_UNAVAILABLE"
            ) from error
        except transient as error:
            pause_seconds = retries.next_pause_seconds()
            if pause_seconds is None or (expiry is not None and time.monotonic() + pause_seconds >= expiry):
                raise
            log.warning("%s failed and is tried again in %.1f s: %s", what, pause_seconds, error)
        await asyncio.sleep(pause_seconds)


class Stopped(Exception):
    """The pod was told to stop."""


class PodClient:
    """What a pod asks of the services for its job: heartbeats, the base model, the delivery of the finished one."""

    def __init__(self, document: PodDocument, *, stop: threading.Event) -> None:
        self._document, self._stop = document, stop
        self._connection = connection_of(document.job, token=str(document.spec.get("token", "")))
        self._phase = TrainingProgress.PHASE_UNSPECIFIED
        self.is_abandoned = False
        """Whether `stop` was set because the training service has not answered for too long."""
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._send_heartbeats, name="heartbeat", daemon=True)

    def start_heartbeats(self) -> None:
        """Starts to report that the job is alive; an answer may set `stop`."""
        self._thread.start()

    def close(self) -> None:
        """Ends the heartbeats."""
        self._ended.set()

    def fetch_model(self, name: str, folder: Path) -> None:
        """Fetches a model version into `folder`. Raises the data service's error, and `Stopped`."""

        async def fetch() -> None:
            async with AsyncClient(str(self._document.spec["data_address"]), **self._connection) as client:
                await client.download_model(name, folder)

        self._phase = TrainingProgress.PHASE_FETCHING_MODEL
        asyncio.run(self._unless_stopped(_patiently(fetch, seconds=FETCH_SECONDS, what=f"fetching {name}")))
        self._phase = TrainingProgress.PHASE_UNSPECIFIED  # from here on the run speaks for itself

    def deliver_model(self, folder: Path) -> str:
        """Delivers the finished model and returns its name. Raises the training service's error.

        Does not listen to `stop`: all the work is done, and only the handover is left.
        """

        async def deliver() -> str:
            async with AsyncClient(str(self._document.spec["training_address"]), **self._connection) as client:
                return await client.deliver_model(self._document.job, folder, attempt=self._document.attempt)

        self._phase = TrainingProgress.PHASE_DELIVERING_MODEL
        return asyncio.run(_patiently(deliver, seconds=self._document.deliver_seconds, what="delivering the model"))

    async def _unless_stopped(self, work: Awaitable[T]) -> T:
        """The result of `work`, which is cancelled when `stop` is set. Raises `Stopped`."""
        task = asyncio.ensure_future(work)
        while not task.done():
            # Polled, because a signal handler sets a thread's event, on which no coroutine can wait.
            if self._stop.is_set():
                task.cancel()
                raise Stopped
            await asyncio.wait({task}, timeout=STOP_POLL_SECONDS)
        return task.result()

    def _send_heartbeats(self) -> None:
        with Client(str(self._document.spec["training_address"]), **self._connection) as client:
            heard_at = time.monotonic()
            while True:
                try:
                    if client.report_progress(self._document.job, TrainingProgress(phase=self._phase)).stop_requested:
                        self._stop.set()
                    heard_at = time.monotonic()
                except OmnialignError as error:
                    log.debug("a heartbeat was not heard: %s", error)
                    if error.reason == "DATABASE_UNAVAILABLE":  # the service is there, and lacks its database
                        heard_at = time.monotonic()
                except Exception:
                    log.warning("a heartbeat failed unexpectedly", exc_info=True)
                if time.monotonic() - heard_at > self._document.abandoned_seconds:
                    self.is_abandoned = True
                    self._stop.set()
                if self._ended.wait(HEARTBEAT_SECONDS):
                    return


async def _patiently(work: Callable[[], Awaitable[T]], *, seconds: float, what: str) -> T:
    policy = replace(POD_RETRIES, budget_seconds=seconds)
    return await retry_while_away(work, policy=policy, what=what, transient=TRANSIENT, deadline_seconds=seconds)
