"""`python -m training sft --spec job.yaml`: one training run, usually under torchrun.

Heavy modules are imported late, so that a wrong spec is refused at once.
"""

import argparse
import logging
import os
import signal
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType

from omnialign.errors import Internal, OmnialignError
from training import failures
from training.launch import EXIT_CRASHED, EXIT_FAILED, EXIT_STOPPED, clear_failure, note_exit, write_failure
from training.methods import METHODS
from training.orphan import watch_service
from training.progress import Progress
from training.spec import Spec
from training.spec_file import read_spec
from training.watchdog import Phase, Watchdog, clocks

log = logging.getLogger("training")


def main(arguments: list[str] | None = None) -> int:
    """Runs the command line and returns the exit code: 0, or an `EXIT_*` of `training.launch`."""
    parser = argparse.ArgumentParser(prog="python -m training", description="Runs one training method.")
    parser.add_argument("method", choices=METHODS)
    parser.add_argument("--spec", type=Path, required=True, help="YAML file that says what to train and how")
    given = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s %(message)s")
    try:
        spec = read_spec(given.spec, method=given.method)
    except OmnialignError as error:
        sys.stderr.write(f"{error.reason}: {error.message}\n")
        write_failure(given.spec.parent, error)
        return EXIT_FAILED
    return run(spec)


def run(spec: Spec) -> int:
    """Runs a spec and returns the exit code; every failure leaves a typed error in the output folder."""
    is_main = int(os.environ.get("RANK", "0")) == 0
    if is_main:
        clear_failure(spec.output_dir)
        failures.clear_staging(spec.output_dir)
    try:
        return 0 if _train(spec, is_main=is_main) else EXIT_STOPPED
    except OmnialignError as error:
        log.error("%s: %s", error.reason, error.message)
        failures.leave(error, spec.output_dir)
        return EXIT_FAILED
    except Exception as error:
        failure = failures.leave(error, spec.output_dir)
        log.exception("%s: %s", failure.reason, failure.message)
        return EXIT_CRASHED


def _train(spec: Spec, *, is_main: bool) -> bool:
    if spec.model_dir.is_dir():
        log.info("%s exists already: nothing to do", spec.model_dir)
        return True
    progress = Progress(spec, is_main=is_main)
    _stop_on_signal(progress.stop_requested.set)
    watch_service(stop=progress.stop_requested.set)
    progress.start()
    try:
        return _train_with(spec, progress=progress)
    finally:
        progress.close()


def _train_with(spec: Spec, *, progress: Progress) -> bool:
    _prepare_environment()
    from training import runner
    from training.run_context import RunContext

    def stalled(phase: Phase, timeout_seconds: float) -> None:
        message = f"stuck in phase {phase} for more than {timeout_seconds:g} s; the stacks are in the log"
        metadata = {"phase": phase.value, "timeout_seconds": f"{timeout_seconds:g}"}
        write_failure(spec.output_dir, Internal(message, reason=f"{phase.name}_STALLED", metadata=metadata))

    watchdog = Watchdog(clocks(spec), on_stall=stalled)
    context = RunContext(spec=spec, progress=progress, watchdog=watchdog)
    watchdog.start()
    try:
        return runner.train(context)
    finally:
        watchdog.stop()


def _prepare_environment() -> None:
    """Sets what torch and DeepSpeed read when they are imported."""
    if not any(Path("/dev").glob("nvidia[0-9]*")):
        os.environ.setdefault("DS_ACCELERATOR", "cpu")
    for name, value in {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1"}.items():
        os.environ.setdefault(name, value)
    if "MASTER_PORT" not in os.environ:
        os.environ["MASTER_PORT"] = str(_free_port())
    os.environ.setdefault("HF_HUB_OFFLINE", "1")


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


def _stop_on_signal(stop: Callable[[], None]) -> None:
    def handle(number: int, frame: FrameType | None) -> None:
        stop()

    signal.signal(signal.SIGTERM, handle)
    signal.signal(signal.SIGINT, handle)


if __name__ == "__main__":
    code = main()
    note_exit(code)
    sys.stdout.flush()
    sys.stderr.flush()
    # Collective libraries keep threads that can delay the interpreter's exit by minutes.
    os._exit(code)
