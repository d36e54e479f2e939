"""How a run ends other than well: exit codes, and the typed error that it leaves behind for the service."""

import json
import os
from collections.abc import Sequence
from pathlib import Path

from google.protobuf import json_format
from google.rpc import status_pb2

from omnialign.errors import OmnialignError, from_status, to_status
from training.files import write_atomically

EXIT_FAILED = 65
"""A typed failure; its error is in `error.json`."""
EXIT_STALLED = 70
"""The step watchdog gave up; the stacks are on standard error."""
EXIT_STOPPED = 75
"""Asked to stop; a checkpoint was written and the run can go on from it."""

FILE = "error.json"
EXIT_VARIABLE = "OMNIALIGN_TRAINING_EXIT_FILE"
"""Names a file for the run's exit code, which torchrun would turn into 1."""
TERMINATION_BYTES = 4000
"""A little less than the 4096 bytes that Kubernetes keeps of a termination message."""
MESSAGE_CHARACTERS, LINE_CHARACTERS = 1000, 300


def write_failure(output_dir: Path, error: OmnialignError) -> None:
    """Leaves an error where `read_failure` finds it."""
    write_atomically(output_dir / FILE, json_format.MessageToJson(to_status(error)).encode())


def read_failure(output_dir: Path) -> OmnialignError | None:
    """The error that a run left, or None."""
    try:
        status = json_format.Parse((output_dir / FILE).read_bytes(), status_pb2.Status())
    except (OSError, json_format.ParseError):
        return None
    return from_status(status)


def clear_failure(output_dir: Path) -> None:
    """Forgets an earlier attempt's error."""
    (output_dir / FILE).unlink(missing_ok=True)


def note_exit(code: int) -> None:
    """Writes the exit code for whoever started torchrun and asked for it, once for each node."""
    if (path := os.environ.get(EXIT_VARIABLE)) and os.environ.get("LOCAL_RANK", "0") == "0":
        write_atomically(Path(path), str(code).encode())


def noted_exit(path: Path) -> int | None:
    """The exit code that a run noted, or None."""
    try:
        return int(path.read_text())
    except (OSError, ValueError):
        return None


def write_termination(path: Path, error: OmnialignError, *, log_tail: Sequence[str]) -> None:
    """Leaves an error and the last log lines where Kubernetes puts them into the pod's status, cut to what it keeps.

    Not atomic: the file is mounted by itself and cannot be replaced. One that cannot be written is passed over.
    """
    short = type(error)(error.message[:MESSAGE_CHARACTERS], reason=error.reason, metadata=error.metadata)
    lines = [line[:LINE_CHARACTERS] for line in log_tail]
    while True:
        told = {"status": json_format.MessageToDict(to_status(short)), "log_tail": lines}
        data = json.dumps(told).encode()
        if len(data) <= TERMINATION_BYTES:
            break
        if lines:
            lines = lines[1:]
        else:  # metadata of great length
            short = type(error)(short.message, reason=error.reason)
    try:
        path.write_bytes(data)
    except OSError:
        return
