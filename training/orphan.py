"""Ends a run whose service is gone.

A service stops its runs when it ends. One that is killed cannot, and its runs would go on computing for nobody, which
on a laptop takes all cores from whoever starts the next one. So each process of a run watches the process of the
service, where the environment names it. Its next start goes on from the checkpoint.

A service that leaves its runs to its successor (`stop_jobs_on_shutdown` is false) does not name itself. In a cluster,
`training.pod` gives up instead after a time without an answer.
"""

import logging
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping

import psutil

from training.launch import EXIT_STOPPED, SERVICE_VARIABLE

INTERVAL_SECONDS = 1.0
CHECKPOINT_SECONDS = 5.0
"""How long an orphan may take to write a checkpoint and end by itself, as long as after SIGTERM by the service."""

log = logging.getLogger(__name__)


def watch_service(*, stop: Callable[[], None], environ: Mapping[str, str] = os.environ) -> None:
    """Calls `stop` once the service that `environ` names is gone, and ends the process `CHECKPOINT_SECONDS` later.

    The check is made in a thread of its own: the main thread may be in a step, or wait for another rank.
    """
    if pid := environ.get(SERVICE_VARIABLE):
        service = _process(int(pid))
        threading.Thread(target=_watch, args=(service, stop), name="service-watch", daemon=True).start()


def _watch(service: psutil.Process | None, stop: Callable[[], None]) -> None:
    while _runs(service):
        time.sleep(INTERVAL_SECONDS)
    log.warning("the training service is gone: the run stops, and goes on from its checkpoint when it is started again")
    stop()
    time.sleep(CHECKPOINT_SECONDS)
    sys.stderr.flush()
    # Not `sys.exit`: the main thread may be anywhere, and would not get to raise it.
    os._exit(EXIT_STOPPED)


def _process(pid: int) -> psutil.Process | None:
    try:
        return psutil.Process(pid)
    except psutil.NoSuchProcess:
        return None


def _runs(process: psutil.Process | None) -> bool:
    """Whether a process runs; a later one with the same id is another."""
    try:
        return process is not None and process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
