"""`omnialign up`: all services in this process, until Ctrl-C."""

from __future__ import annotations

import os
import shlex
from pathlib import Path
from typing import Annotated, Any

import typer

from omnialign.cli.output import Output
from omnialign.cli.session import run_guarded

DEFAULT_PORT = 50051


def up(
    root: Annotated[Path | None, typer.Option(help="Folder of all state; default: $OMNIALIGN_ROOT.")] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on loopback; 0 takes a free one.")] = DEFAULT_PORT,
    metrics_port: Annotated[int | None, typer.Option(min=0, max=65535, help="Port of Prometheus metrics.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Starts all services in this process, with their state under one folder, until Ctrl-C."""
    from omnialign.cli.state import default_root

    out = Output(as_json=as_json)
    folder = (root or default_root()).absolute()
    run_guarded(lambda: serve(folder, port=port, metrics_port=metrics_port, out=out), out=out)


async def serve(root: Path, *, port: int, metrics_port: int | None, out: Output) -> None:
    """Serves until a signal."""
    from omnialign.cli.state import default_root

    services = load_embedded()
    services.configure_logging("WARNING")
    async with services.embedded(root, port=port, metrics_port=metrics_port) as stack:
        out.record({"address": stack.address, "root": str(root), "process_id": os.getpid()})
        out.say(f"omnialign serves at {stack.address}, state in {root}. Ctrl-C stops it.")
        if root != default_root():  # or the other commands would look elsewhere
            out.say(f"In other terminals: export OMNIALIGN_ROOT={shlex.quote(str(root))}")
        await stack.serve_until_signal()
    out.say("Stopped; nothing is lost.")


def load_embedded() -> Any:
    """The module `services.embedded`. Raises FailedPrecondition EXTRA_MISSING when it cannot be imported."""
    from omnialign.errors import FailedPrecondition

    try:
        from services import embedded
    except ModuleNotFoundError as error:
        raise FailedPrecondition(
            f"Running services needs '{error.name}', which is not installed; "
            'install them with `pip install "omnialign[services,training]"`.',
            reason="EXTRA_MISSING",
            metadata={"module": error.name or ""},
        ) from error
    return embedded
