"""`python -m training.pod`: one pod of a training job in a cluster.

Fetches the base model, runs torchrun as one node of the job, and, in the first pod, sends heartbeats to the training
service and delivers the finished model. The exit code and the termination message, with the last log lines, tell how
it ended; the service reads both from the pod's status.
"""

import collections
import contextlib
import logging
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import FrameType
from typing import IO

import psutil
import yaml

from omnialign.errors import Internal, OmnialignError, ResourceExhausted, Unavailable
from omnialign.modeling.lora import is_lora, read_lora
from training import launch
from training.client import PodClient, Stopped
from training.files import write_atomically
from training.launch import (
    EXIT_CRASHED,
    EXIT_FAILED,
    EXIT_STALLED,
    EXIT_STOPPED,
    EXIT_VARIABLE,
    clear_failure,
    noted_exit,
    read_failure,
    write_termination,
)
from training.pod_paths import PodDocument, PodPaths, read_document

DNS_POLL_SECONDS = 0.5
TAIL_LINES = 40
POLL_SECONDS = 0.2
OUTPUT_SECONDS = 5.0
"""How long to wait for the last output of a torchrun that has exited."""
MEMORY_EVENTS = Path("/sys/fs/cgroup/memory.events")

log = logging.getLogger("training.pod")


class RunFailed(Exception):
    """The run ended without a model: the exit code of the pod, the error, and the last log lines."""

    def __init__(self, code: int, error: OmnialignError, tail: list[str]) -> None:
        super().__init__(error.message)
        self.code, self.error, self.tail = code, error, tail


def main() -> int:
    """Runs the pod and returns its exit code; an error is left in the termination message."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    paths, stop = PodPaths.from_environment(os.environ), threading.Event()
    _stop_on_signal(stop)
    try:
        document = read_document(paths.document)
        run(document, paths, stop=stop)
    except Stopped:
        log.info("told to stop before training began")
        return EXIT_STOPPED
    except RunFailed as failed:
        log.error("%s: %s", failed.error.reason, failed.error.message)
        write_termination(paths.termination_log, failed.error, log_tail=failed.tail)
        return failed.code
    except OmnialignError as error:
        log.error("%s: %s", error.reason, error.message)
        write_termination(paths.termination_log, error, log_tail=[])
        return EXIT_FAILED
    return 0


def run(document: PodDocument, paths: PodPaths, *, stop: threading.Event) -> None:
    """Everything from the base model to the delivery. Raises `RunFailed`, `Stopped` and the services' errors."""
    client = PodClient(document, stop=stop)
    try:
        if paths.is_first:
            client.start_heartbeats()
        _write_spec(document, paths, base=_fetch_base(document, paths, client))
        node = paths.node(document)
        _await_first_node(node, stop=stop)
        _train(document, paths, node, stop=stop)
        if paths.is_first:
            _deliver(client, paths)
    except (RunFailed, Stopped) as ended:
        if client.is_abandoned:
            # With the code of a final failure: after a mere stop, Kubernetes would start the pod again.
            tail = ended.tail if isinstance(ended, RunFailed) else []
            raise RunFailed(EXIT_FAILED, _abandoned(document), tail) from ended
        raise
    finally:
        client.close()


def _fetch_base(document: PodDocument, paths: PodPaths, client: PodClient) -> dict[str, object]:
    """Fetches the base model, and that of a LoRA with it; returns what the spec says of them."""
    name, folder = document.base_model, paths.base_model(document.base_model)
    # A finished model in the workspace is that of an earlier pod, which ended before it could deliver it.
    if (paths.output / "model").is_dir():
        return {"base_model_dir": str(folder)}
    client.fetch_model(name, folder)
    if not is_lora(folder):
        return {"base_model": name, "base_model_dir": str(folder)}
    base = read_lora(folder, name=name).base
    client.fetch_model(base, paths.base_model(base))
    found = {"base_model": base, "base_model_dir": str(paths.base_model(base)), "initial_lora_dir": str(folder)}
    return {**found, "lora": document.spec.get("lora", {})}


def _write_spec(document: PodDocument, paths: PodPaths, *, base: Mapping[str, object]) -> None:
    """Writes the run's spec, readable by its owner only, and removes what an earlier attempt said at its end."""
    folders = {
        **base,
        "output_dir": str(paths.output),
        "cache_dir": str(paths.cache),
    }
    for folder in (paths.output, paths.cache, paths.spec.parent):
        folder.mkdir(parents=True, exist_ok=True)
    write_atomically(paths.spec, yaml.safe_dump({**document.spec, **folders}).encode())
    paths.spec.chmod(0o600)
    paths.exit_file.unlink(missing_ok=True)
    if paths.is_first:
        clear_failure(paths.output)


def _await_first_node(node: launch.Node, *, stop: threading.Event) -> None:
    """Waits until the first pod answers at its name: pods start in any order, and DNS lags behind.

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


def _train(document: PodDocument, paths: PodPaths, node: launch.Node, *, stop: threading.Event) -> None:
    """Runs torchrun to its end. Raises `RunFailed` unless it succeeded."""
    command = launch.command(document.method, spec_path=paths.spec, num_processes=document.num_processes, node=node)
    given = {**os.environ, EXIT_VARIABLE: str(paths.exit_file)}
    environment = launch.environment(given, num_processes=document.num_processes, num_cpus=paths.num_cpus)
    kills_before = out_of_memory_kills()
    torchrun = Torchrun(command, environment=environment, folder=paths.scratch)
    code = torchrun.wait(stop)
    if code == 0:
        return
    noted, tail = noted_exit(paths.exit_file), list(torchrun.tail)
    error = read_failure(paths.output) or read_failure(paths.spec.parent)
    # From the surest witness to the vaguest: the kernel's count of kills (a killed process leaves no word, and its
    # peers' complaints about it would mislead), a stop that was asked for, the run's own error, the exit code.
    if out_of_memory_kills() > kills_before:
        message = "a process of the pod was killed because the pod reached its memory limit; raise the limit"
        raise RunFailed(EXIT_CRASHED, ResourceExhausted(message, reason="OOM_KILLED"), tail)
    if noted == EXIT_STOPPED or (stop.is_set() and error is None):
        stopped = Unavailable("told to stop; the run goes on from its checkpoint", reason="STOPPED")
        raise RunFailed(EXIT_STOPPED, stopped, tail)
    if error is None:
        raise RunFailed(EXIT_CRASHED, _died(code, tail), tail)
    if error.reason.endswith("_STALLED"):
        raise RunFailed(EXIT_STALLED, error, tail)
    raise RunFailed(EXIT_FAILED if noted == EXIT_FAILED else EXIT_CRASHED, error, tail)


def _abandoned(document: PodDocument) -> Unavailable:
    seconds = document.abandoned_seconds
    return Unavailable(
        f"the training service has not answered for {seconds:g} s, so nobody waits for the model; a checkpoint is left",
        reason="SERVICE_GONE",
        metadata={"abandoned_seconds": f"{seconds:g}"},
    )


def _died(code: int, tail: list[str]) -> Internal:
    last = next((line for line in reversed(tail) if line.strip()), "")
    return Internal(
        f"the training program ended without a model: exit code {code}",
        reason="PROCESS_DIED",
        metadata={"exit_reason": f"exit code {code}", "last_line": last[:200]},
    )


def _deliver(client: PodClient, paths: PodPaths) -> None:
    """Delivers the model, then clears the workspace, which may outlive the pod."""
    model = paths.output / "model"
    if not model.is_dir():
        raise Internal("training succeeded but left no model on the first node", reason="MODEL_MISSING")
    log.info("delivered as %s", client.deliver_model(model))
    for folder in (paths.output, paths.cache):
        shutil.rmtree(folder, ignore_errors=True)


def _stop_on_signal(stop: threading.Event) -> None:
    def handle(number: int, frame: FrameType | None) -> None:
        stop.set()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)


class Torchrun:
    """A running torchrun: its output is passed on, and its last lines are kept in `tail`."""

    def __init__(self, command: Sequence[str], *, environment: Mapping[str, str], folder: Path) -> None:
        self.tail: collections.deque[str] = collections.deque(maxlen=TAIL_LINES)
        self._process = subprocess.Popen(
            list(command),
            env=dict(environment),
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        assert self._process.stdout is not None
        self._reader = threading.Thread(target=self._pass_on, args=(self._process.stdout,), daemon=True)
        self._reader.start()

    def wait(self, stop: threading.Event) -> int:
        """Waits for the exit and returns its code; once `stop` is set, the workers are asked to stop."""
        asked = False
        while True:
            with contextlib.suppress(subprocess.TimeoutExpired):
                code = self._process.wait(timeout=POLL_SECONDS)
                self._reader.join(timeout=OUTPUT_SECONDS)
                return code
            if stop.is_set() and not asked:
                self._ask_to_stop()
                asked = True

    def _ask_to_stop(self) -> None:
        """Sends SIGTERM to the workers, not to torchrun, which would kill them after 30 s however long the pod has."""
        workers = []
        with contextlib.suppress(psutil.Error):
            workers = psutil.Process(self._process.pid).children()
        for worker in workers:
            with contextlib.suppress(psutil.Error):
                worker.terminate()
        if not workers:
            self._process.terminate()

    def _pass_on(self, output: IO[bytes]) -> None:
        for line in output:
            text = line.decode("utf-8", errors="replace").rstrip("\n")
            self.tail.append(text)
            sys.stdout.write(f"{text}\n")
            sys.stdout.flush()


def out_of_memory_kills() -> int:
    """How many processes of this container were killed for lack of memory; 0 where the kernel does not say."""
    try:
        counts = dict(line.split() for line in MEMORY_EVENTS.read_text().splitlines())
        return int(counts.get("oom_kill", 0))
    except (OSError, ValueError):
        return 0


if __name__ == "__main__":
    sys.exit(main())
