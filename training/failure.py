"""How a run ends other than well: exit codes, and the typed error that it leaves behind for the service."""

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
