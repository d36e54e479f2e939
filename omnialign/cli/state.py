"""Where an embedded stack keeps its state, and how commands find the running stack.

While it runs, a stack keeps a `server.json` in its root. A command takes the address from, in this order, `--address`,
the variable `OMNIALIGN_ADDRESS`, and `server.json` in the root (`OMNIALIGN_ROOT`, or a folder in the user's data
directory).
"""

import json
import os
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from omnialign.errors import FailedPrecondition

STATE_FILE = "server.json"


@dataclass(frozen=True)
class StackState:
    """A running stack, as described by its state file."""

    address: str
    """The `host:port` of its services."""
    process_id: int
    """The process that runs it."""


def default_root(environ: Mapping[str, str] | None = None) -> Path:
    """`OMNIALIGN_ROOT`, or `omnialign` in the user's data directory."""
    source = os.environ if environ is None else environ
    if root := source.get("OMNIALIGN_ROOT"):
        return Path(root).expanduser()
    return Path(source.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "omnialign"


def write_state(root: Path, state: StackState) -> None:
    """Replaces the state file atomically."""
    replace_file(root / STATE_FILE, json.dumps(asdict(state)).encode() + b"\n")


def read_state(root: Path) -> StackState | None:
    """The stack that runs in this root according to its state file; None if there is none or it is unreadable."""
    try:
        return StackState(**json.loads((root / STATE_FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def remove_state(root: Path) -> None:
    """Removes the state file, if any."""
    (root / STATE_FILE).unlink(missing_ok=True)


def find_address(explicit: str | None, *, environ: Mapping[str, str] | None = None) -> str:
    """The address of the server. Raises FailedPrecondition SERVER_NOT_FOUND."""
    source = os.environ if environ is None else environ
    if address := explicit or source.get("OMNIALIGN_ADDRESS"):
        return address
    root = default_root(source)
    if state := read_state(root):
        return state.address
    raise FailedPrecondition(
        f"No omnialign server is running in {root}; start one with `omnialign up`, or give its --address.",
        reason="SERVER_NOT_FOUND",
        metadata={"root": str(root)},
    )


def replace_file(path: Path, data: bytes) -> None:
    """Replaces a file atomically: readers see either the old content or the new, also after a crash."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, partial = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        Path(partial).chmod(0o644)
        Path(partial).replace(path)
    except BaseException:
        Path(partial).unlink(missing_ok=True)
        raise
