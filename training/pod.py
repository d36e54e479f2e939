"""`python -m training.pod`: one pod of a training job in a cluster.

Fetches the base model, runs torchrun as one node of the job, and, in the first pod, tells the training service that the
job lives and delivers the finished model. How it ended is told by the exit code and, with the last log lines, by the
termination message, which the service reads from the pod's status.
"""

import logging
import os
import shutil
import signal
import socket
import sys
import threading
import time
from types import FrameType

import yaml

from omnialign.errors import Internal, OmnialignError, ResourceExhausted, Unavailable
from training import launch
from training.failure import (
    EXIT_FAILED,
    EXIT_STALLED,
    EXIT_STOPPED,
    EXIT_VARIABLE,
    clear_failure,
    noted_exit,
    read_failure,
    write_termination,
)
from training.files import write_atomically
from training.pod_child import Child, out_of_memory_kills
from training.pod_document import PodDocument, read_document
from training.pod_link import Link, Stopped
from training.pod_place import Place

EXIT_CRASHED = 1
DNS_POLL_SECONDS = 0.5

log = logging.getLogger("training.pod")


class Ended(Exception):
    """The run ended without a model: the exit code, the error and the last log lines."""

    def __init__(self, code: int, error: OmnialignError, tail: list[str]) -> None:
        super().__init__(error.message)
        self.code, self.error, self.tail = code, error, tail


def main() -> int:
    """Runs the pod and returns its exit code; a failure is left in the termination message."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    place, stop = Place.of(os.environ), threading.Event()
    _stop_on_signal(stop)
    try:
        document = read_document(place.document)
        run(document, place, stop=stop)
    except Stopped:
        log.info("told to stop before training began")
        return EXIT_STOPPED
    except Ended as ended:
        log.error("%s: %s", ended.error.reason, ended.error.message)
        write_termination(place.termination_log, ended.error, log_tail=ended.tail)
        return ended.code
    except OmnialignError as error:
        log.error("%s: %s", error.reason, error.message)
        write_termination(place.termination_log, error, log_tail=[])
        return EXIT_FAILED
    return 0


def run(document: PodDocument, place: Place, *, stop: threading.Event) -> None:
    """Everything from the base model to the delivery. Raises `Ended`, `Stopped` and the services' errors."""
    link = Link(document, stop=stop)
    try:
        if place.is_first:
            link.start_heartbeats()
        base_model_dir = place.base_model(document.base_model)
        if not (place.output / "model").is_dir():
            link.fetch_model(base_model_dir)
        _write_spec(document, place, base_model_dir=str(base_model_dir))
        node = place.node(document)
        _await_first_node(node, stop=stop)
        _train(document, place, node, stop=stop)
        if place.is_first:
            _deliver(link, place)
    finally:
        link.close()


def _write_spec(document: PodDocument, place: Place, *, base_model_dir: str) -> None:
    folders = {
        "base_model_dir": base_model_dir,
        "output_dir": str(place.output),
        "cache_dir": str(place.cache),
    }
    for folder in (place.output, place.cache, place.spec.parent):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(place.spec, yaml.safe_dump({**document.spec, **folders}).encode())
    place.spec.chmod(0o600)
    place.exit_file.unlink(missing_ok=True)
    if place.is_first:
        clear_failure(place.output)


def _await_first_node(node: launch.Node, *, stop: threading.Event) -> None:
    """Waits until the first pod's name resolves and its port answers: pods start in any order, DNS lags behind.

    Raises `Unavailable` (RENDEZVOUS_TIMEOUT) and `Stopped`.
    """
    if node.index == 0 or node.count == 1:
        return
    host, _, port = node.endpoint.rpartition(":")
    expiry = time.monotonic() + node.timeout_seconds
    while True:
        try:
            with socket.create_connection((host, int(port)), timeout=5):
                return
        except OSError as error:
            if time.monotonic() >= expiry:
                raise Unavailable(
                    f"the first pod did not answer at {node.endpoint} within {node.timeout_seconds:g} s: {error}",
                    reason="RENDEZVOUS_TIMEOUT",
                    metadata={"endpoint": node.endpoint},
                ) from error
        if stop.wait(DNS_POLL_SECONDS):
            raise Stopped


def _train(document: PodDocument, place: Place, node: launch.Node, *, stop: threading.Event) -> None:
    """Runs torchrun to its end. Raises `Ended` when it ended without success."""
    command = launch.command(document.method, spec_path=place.spec, num_processes=document.num_processes, node=node)
    given = {**os.environ, EXIT_VARIABLE: str(place.exit_file)}
    environment = launch.environment(given, num_processes=document.num_processes, num_cpus=place.num_cpus)
    kills_before = out_of_memory_kills()
    child = Child(command, environment=environment, folder=place.scratch)
    code = child.wait(stop)
    if code == 0:
        return
    noted, tail = noted_exit(place.exit_file), list(child.tail)
    error = read_failure(place.output) or read_failure(place.spec.parent)
    if out_of_memory_kills() > kills_before:
        words = "a process of the pod was killed because the pod's memory limit was reached"
        raise Ended(EXIT_CRASHED, ResourceExhausted(words, reason="OOM_KILLED"), tail)
    if noted == EXIT_STOPPED or (stop.is_set() and error is None):
        stopped = Unavailable("told to stop; the run goes on from its checkpoint", reason="STOPPED")
        raise Ended(EXIT_STOPPED, stopped, tail)
    if error is not None:
        stalled = error.reason == "STEP_STALLED"
        raise Ended(EXIT_STALLED if stalled else EXIT_FAILED if noted == EXIT_FAILED else EXIT_CRASHED, error, tail)
    raise Ended(EXIT_CRASHED, _died(code, tail), tail)


def _died(code: int, tail: list[str]) -> Internal:
    last = next((line for line in reversed(tail) if line.strip()), "")
    return Internal(
        f"the training program ended without a model: exit code {code}",
        reason="PROCESS_DIED",
        metadata={"exit_reason": f"exit code {code}", "last_line": last[:200]},
    )


def _deliver(link: Link, place: Place) -> None:
    """Delivers the model and clears the workspace, which may outlive the pod."""
    model = place.output / "model"
    if not model.is_dir():
        raise Internal("training ended well but left no model on the first node", reason="MODEL_MISSING")
    log.info("delivered as %s", link.deliver_model(model))
    for folder in (place.output, place.cache):
        shutil.rmtree(folder, ignore_errors=True)


def _stop_on_signal(stop: threading.Event) -> None:
    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)


if __name__ == "__main__":
    sys.exit(main())
