"""`omnialign up` and `omnialign demo`: all services in this process, until Ctrl-C or for one job."""

from __future__ import annotations

import os
import shlex
import sys
import tempfile
import time
import webbrowser
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnialign.cli.output import Output
from omnialign.cli.session import Session, command, run_guarded

if TYPE_CHECKING:
    from examples.example import Example
    from omnialign.client import AsyncClient


DEFAULT_PORT = 50051
CONSOLE_PORT = 50080
USUAL_CONSOLE: dict[str, Any] = {"console_port": CONSOLE_PORT, "or_any_console_port": True}
STARTING = "Starting all services in this process."
SMOKE_TEST = "This is a smoke test: it shows that everything works, and its numbers say nothing about the method."


def up(
    root: Annotated[
        Path | None,
        typer.Option(help="Folder for all state. Default: $OMNIALIGN_ROOT, or a folder in your data directory."),
    ] = None,
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port on localhost; 0 picks a free one.")] = DEFAULT_PORT,
    metrics_port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port for Prometheus metrics. Default: no metrics.")
    ] = None,
    console_port: Annotated[
        int | None,
        typer.Option(
            min=0,
            max=65535,
            help=f"Port of the console on localhost. Default: {CONSOLE_PORT}, or a free one if it is taken.",
        ),
    ] = None,
    console: Annotated[bool, typer.Option(help="Serve the console, pages for a browser.")] = True,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Run all services in this process until Ctrl-C, with their state in one folder."""
    from omnialign.cli.state import default_root

    out = Output(as_json=as_json)
    folder = (root or default_root()).absolute()
    ports: dict[str, Any] = {"port": port, "metrics_port": metrics_port}
    if console:
        ports |= USUAL_CONSOLE if console_port is None else {"console_port": console_port}
    run_guarded(lambda: serve(folder, ports=ports, out=out), out=out)


async def serve(root: Path, *, ports: dict[str, Any], out: Output) -> None:
    """Serves until SIGINT or SIGTERM, at the `ports` that `services.embedded.embedded` takes."""
    from omnialign.cli.state import default_root

    out.say(STARTING)
    services = load_embedded()
    services.configure_logging("WARNING")
    async with services.embedded(root, **ports) as stack:
        running = {"address": stack.address, "root": str(root), "process_id": os.getpid()}
        out.record(running | ({"console": stack.console_address} if stack.console_address else {}))
        out.say(f"omnialign is running at {stack.address}, with its state in {root}. Press Ctrl-C to stop.")
        if root != default_root():  # other commands look for the server in the default root
            out.say(f"In other terminals: export OMNIALIGN_ROOT={shlex.quote(str(root))}")
        if stack.console_address:
            out.say(f"Console: {stack.console_address}")
        await stack.serve_until_signal()
    out.say("Stopped. Start it again with the same root to continue.")


def load_embedded() -> Any:
    """The module `services.embedded`. Raises FailedPrecondition EXTRA_MISSING if it cannot be imported."""
    from omnialign.errors import FailedPrecondition

    try:
        from services import embedded
    except ModuleNotFoundError as error:
        raise FailedPrecondition(
            f"Running the services needs '{error.name}', which is not installed; "
            'run `pip install "omnialign[services,training]"`.',
            reason="EXTRA_MISSING",
            metadata={"module": error.name or ""},
        ) from error
    return embedded


@dataclass(frozen=True)
class DemoPlan:
    """What one demo submits, and under which ids."""

    example: Example
    seed: int
    small: bool
    method: str
    suffix: str = ""
    """Keeps the resources of one demo apart from those of others on a shared server."""

    def named(self, name: str) -> str:
        """The id of a resource of this demo."""
        return f"{name}{self.suffix}"


@command
async def demo(
    session: Session,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the data and of all sampling.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the report and the state of the run.")] = Path("omnialign-demo"),
    method: Annotated[
        str, typer.Option(help="How to optimise on what the loop found, such as `dpo` or `simpo`.")
    ] = "dpo",
    example: Annotated[
        str,
        typer.Option(
            help="`tinyworld`, a small all-modality model in minutes, or `instructions`, a real language model of 135 M"
            " parameters in half an hour."
        ),
    ] = "tinyworld",
    small: Annotated[
        bool, typer.Option(help="A smoke test of few rows and steps: shows that everything works, not how well.")
    ] = False,
    console: Annotated[
        bool, typer.Option("--console", help="Open the console in a browser, and keep it when the job is done.")
    ] = False,
) -> None:
    """Align a small model with language feedback, and show what it learnt.

    Runs everything in this process, or on a server with --address.
    """
    from examples import example as examples

    started = time.monotonic()
    chosen = examples.load(example)
    chosen.check(method=method, small=small)
    if small:
        session.out.say(SMOKE_TEST)

    async def tell(numbers: dict[str, Any]) -> None:
        await _show(numbers, folder=out, out=session.out)
        if small:
            session.out.say(SMOKE_TEST)
        session.out.say(f"Done in {(time.monotonic() - started) / 60:.1f} minutes.")

    if session.address:
        if console:
            raise typer.BadParameter("a server has a console of its own", param_hint="--console")
        plan = DemoPlan(chosen, seed, small, method, suffix=time.strftime("-%m%d-%H%M%S"))
        await tell(await _run_on_server(session, plan, out))
    else:
        await _run_in_process(session.out, DemoPlan(chosen, seed, small, method), out, tell=tell, stay=console)


async def _run_in_process(
    out: Output, plan: DemoPlan, folder: Path, *, tell: Callable[[dict[str, Any]], Awaitable[None]], stay: bool
) -> None:
    """Runs the demo in this process, with all its state in a new folder under `folder`/runs.

    With `stay`, opens the console in a browser and keeps it after the job, until Ctrl-C.
    """
    out.say(STARTING)
    services = load_embedded()
    services.configure_logging("WARNING")
    run_folder = folder / "runs" / time.strftime("%Y%m%d-%H%M%S")
    state = run_folder / "state"
    async with services.embedded(state, **USUAL_CONSOLE) as stack:
        out.say(f"They run at {stack.address}, with their state in {state}; `omnialign up --root` takes it up again.")
        out.say(f"Console: {stack.console_address}")
        if stay:
            out.record({"console": stack.console_address})
            if has_screen() and webbrowser.open(stack.console_address):
                out.say("It opens in a browser.")
        session = Session(address=stack.address, out=out)
        goodbye = f"Stopped. `omnialign up --root {state}` continues the job."
        await tell(await _align(session, plan, source=run_folder / "dataset", folder=folder, goodbye=goodbye))
        if stay:
            out.say(f"The console goes on at {stack.console_address}. Press Ctrl-C to stop.")
            await stack.serve_until_signal()
    if stay:
        out.say(f"Stopped. `omnialign up --root {state}` shows it again.")


def has_screen() -> bool:
    """Whether a browser has somewhere to open; elsewhere one that draws in the terminal would take it over."""
    return sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))


async def _run_on_server(session: Session, plan: DemoPlan, folder: Path) -> dict[str, Any]:
    """Runs the demo on the session's server, which gets the dataset and the model from this machine."""
    with tempfile.TemporaryDirectory(prefix="omnialign-demo-") as source:
        return await _align(session, plan, source=Path(source) / "dataset", folder=folder)


async def _align(session: Session, plan: DemoPlan, *, source: Path, folder: Path, goodbye: str = "") -> dict[str, Any]:
    """Submits the job, follows it to its end, and returns the numbers of its report."""
    from omnialign.cli import job_view, jobs

    async with session.client() as client:
        name = await _submit(session, client, plan, source=source, models=folder / "models")
        await jobs.watch_to_end(session, client, name, goodbye=goodbye)
        return await job_view.fetch_report(client, name, folder)


async def _submit(session: Session, client: AsyncClient, plan: DemoPlan, *, source: Path, models: Path) -> str:
    """Writes and imports the dataset, registers the base model, submits the job, and returns the job's name."""
    import asyncio

    from omnialign.cli import importing, job_view, spec, uploads

    example = plan.example
    await asyncio.to_thread(example.write, source, plan.seed, plan.small)
    rows = await uploads.server_uri(client, source, session=session)
    session.out.say(f"Preparing the base model ({example.model_title}).")
    folder = await asyncio.to_thread(example.base_model, models)
    weights = await uploads.server_uri(client, folder, session=session)
    imported = client.import_dataset(plan.named(example.dataset_id), rows)
    version = await importing.show_import(imported, out=session.out)
    if example.append is not None:
        dataset = version.name.partition("/versions/")[0]
        await example.append(client, dataset, plan.seed, plan.small)
        version = await client.commit_version(dataset)
        session.out.say(
            f"{version.name}: with questions about scenes and open instructions, {version.record_count:,} records"
        )
    model = await client.register_model(plan.named(example.model_id), weights, display_name=example.model_title)
    wanted = spec.build(
        example.spec(plan.seed, dataset=version.name, base_model=model.name, method=plan.method, small=plan.small)
    )
    job_id = plan.named(example.job_id)
    job_view.show_preflight(await client.create_alignment_job(job_id, wanted, validate_only=True), out=session.out)
    return (await client.create_alignment_job(job_id, wanted)).name


async def _show(numbers: dict[str, Any], *, folder: Path, out: Output) -> None:
    from omnialign.cli import job_view

    out.record(numbers)
    job_view.show_report(numbers, folder=folder, out=out)
