"""What a pod says to the services for its job: signs of life, the base model fetched, the finished one delivered."""

import asyncio
import logging
import threading
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TypeVar

from omnialign.client import AsyncClient, Client
from omnialign.errors import Cancelled, DeadlineExceeded, OmnialignError, ResourceExhausted, Unavailable
from omnialign.v1.training_service_pb2 import TrainingProgress
from training.connection import Connection, connection
from training.pod_document import PodDocument

T = TypeVar("T")

HEARTBEAT_SECONDS = 5.0
FETCH_SECONDS = 1800.0
"""How long the data service may be away while the base model is fetched."""
FIRST_WAIT_SECONDS, LONGEST_WAIT_SECONDS = 0.5, 15.0
STOP_POLL_SECONDS = 0.2
PASSING = (Unavailable, Cancelled, DeadlineExceeded, ResourceExhausted)
"""What may pass by itself: a service that restarts cancels its calls, a full bucket can be emptied."""

log = logging.getLogger(__name__)


class Stopped(Exception):
    """The pod was told to end."""


class Link:
    """Calls in the name of one job."""

    def __init__(self, document: PodDocument, *, stop: threading.Event) -> None:
        self._document, self._stop = document, stop
        self._how: Connection = connection(document.job, token=str(document.spec.get("token", "")))
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._beat, name="heartbeat", daemon=True)

    def start_heartbeats(self) -> None:
        """Begins to tell that the job lives; the answer may set `stop`."""
        self._thread.start()

    def close(self) -> None:
        """Ends the heartbeats."""
        self._ended.set()

    def fetch_model(self, folder: Path) -> None:
        """Fetches the base model into a folder. Raises the data service's error, and `Stopped`."""

        async def fetch() -> None:
            async with AsyncClient(str(self._document.spec["data_address"]), **self._how) as client:
                await client.download_model(self._document.base_model, folder)

        asyncio.run(self._insist(fetch, seconds=FETCH_SECONDS, what="fetching the base model", stoppable=True))

    def deliver_model(self, folder: Path) -> str:
        """Delivers the finished model and returns its name. Raises the training service's error.

        A request to stop is not heard any more: all the work is done, and only handing it over is left.
        """

        async def deliver() -> str:
            async with AsyncClient(str(self._document.spec["training_address"]), **self._how) as client:
                return await client.deliver_model(self._document.job, folder, attempt=self._document.attempt)

        seconds = self._document.deliver_seconds
        return asyncio.run(self._insist(deliver, seconds=seconds, what="delivering the model", stoppable=False))

    async def _insist(self, work: Callable[[], Awaitable[T]], *, seconds: float, what: str, stoppable: bool) -> T:
        """Does work, again with growing waits while a service is away, for so long at most."""
        expiry, wait = time.monotonic() + seconds, FIRST_WAIT_SECONDS
        while True:
            try:
                async with asyncio.timeout(max(expiry - time.monotonic(), 0.001)):
                    return await self._unless_stopped(work) if stoppable else await work()
            except TimeoutError as error:
                raise Unavailable(f"{what} took longer than {seconds:g} s", reason="SERVICE_UNAVAILABLE") from error
            except PASSING as error:
                if time.monotonic() + wait >= expiry:
                    raise
                log.warning("%s failed and is tried again in %.1f s: %s", what, wait, error)
            await asyncio.sleep(wait)
            wait = min(2 * wait, LONGEST_WAIT_SECONDS)

    async def _unless_stopped(self, work: Callable[[], Awaitable[T]]) -> T:
        task = asyncio.ensure_future(work())
        while not task.done():
            if self._stop.is_set():
                task.cancel()
                raise Stopped
            await asyncio.wait({task}, timeout=STOP_POLL_SECONDS)
        return task.result()

    def _beat(self) -> None:
        with Client(str(self._document.spec["training_address"]), **self._how) as client:
            while True:
                try:
                    if client.report_progress(self._document.job, TrainingProgress()).stop_requested:
                        self._stop.set()
                except OmnialignError as error:
                    log.debug("a sign of life was not heard: %s", error)
                except Exception:
                    log.warning("a sign of life failed in an unforeseen way", exc_info=True)
                if self._ended.wait(HEARTBEAT_SECONDS):
                    return
