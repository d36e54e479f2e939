"""Where an embedded stack keeps its state, and how a command finds the stack that runs.

A stack writes `server.json` into its root while it serves. A command asks, in this order: `--address`, the variable
`OMNIALIGN_ADDRESS`, the state file of the root (`OMNIALIGN_ROOT`, else a folder of the user's data directory).
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
    """A running stack as its state file describes it."""

    address: str
    """`host:port` of its services."""
    process_id: int
    """Its process."""


def default_root(environ: Mapping[str, str] | None = None) -> Path:
    """`OMNIALIGN_ROOT`, else `omnialign` in the user's data directory."""
    source = os.environ if environ is None else environ
    if root := source.get("OMNIALIGN_ROOT"):
        return Path(root).expanduser()
    return Path(source.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "omnialign"


def write_state(root: Path, state: StackState) -> None:
    """Replaces the state file atomically."""
    replace_file(root / STATE_FILE, json.dumps(asdict(state)).encode() + b"\n")


def read_state(root: Path) -> StackState | None:
    """The stack that says it serves in this root; None when there is none or the file is not readable as one."""
    try:
        return StackState(**json.loads((root / STATE_FILE).read_bytes()))
    except (OSError, ValueError, TypeError):
        return None


def remove_state(root: Path) -> None:
    """Removes the state file, if there is one."""
    (root / STATE_FILE).unlink(missing_ok=True)


def find_address(explicit: str | None, *, environ: Mapping[str, str] | None = None) -> str:
    """The address to talk to. Raises FailedPrecondition SERVER_NOT_FOUND with what to do."""
    source = os.environ if environ is None else environ
    if address := explicit or source.get("OMNIALIGN_ADDRESS"):
        return address
    root = default_root(source)
    if state := read_state(root):
        return state.address
    raise FailedPrecondition(
        f"No omnialign server runs in {root}; start one with `omnialign up`, or name one with --address.",
        reason="SERVER_NOT_FOUND",
        metadata={"root": str(root)},
    )


def replace_file(path: Path, data: bytes) -> None:
    """Writes a file so that a reader sees all of it or what was there before."""
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
