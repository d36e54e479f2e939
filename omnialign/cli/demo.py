"""`omnialign demo`: the whole loop on the tiny world, on a laptop with nothing to configure, or on a server."""

from __future__ import annotations

import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnialign.cli.output import Output
from omnialign.cli.session import Session, command

if TYPE_CHECKING:
    from omnialign.client import AsyncClient


@dataclass(frozen=True)
class Plan:
    """What one demo submits, and under which names."""

    seed: int
    small: bool
    suffix: str = ""
    """Tells the resources of one demo from those of others on a shared server."""

    def named(self, name: str) -> str:
        """The id of a resource of this demo."""
        return f"{name}{self.suffix}"


@command
async def demo(
    session: Session,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the data and of everything that is drawn.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the report and all state of the run.")] = Path("omnialign-demo"),
    small: Annotated[bool, typer.Option(help="Few rows and steps: shows that all works, not how well.")] = False,
) -> None:
    """Aligns a small all-modality model with language feedback, and shows what it learnt.

    Everything runs in this process, or with --address on that server.
    """
    started = time.monotonic()
    if session.address:
        numbers = await _run_there(session, Plan(seed, small, suffix=time.strftime("-%m%d-%H%M%S")), out)
    else:
        numbers = await _run_here(session.out, Plan(seed, small), out)
    await _show(numbers, folder=out, out=session.out)
    session.out.say(f"Done in {(time.monotonic() - started) / 60:.1f} minutes.")


async def _run_here(out: Output, plan: Plan, folder: Path) -> dict[str, Any]:
    """Runs in a new folder below `folder`, which keeps all state of the run."""
    from omnialign.cli.up import load_embedded

    out.say("Starting all services in this process.")
    services = load_embedded()
    services.configure_logging("WARNING")
    place = folder / "runs" / time.strftime("%Y%m%d-%H%M%S")
    async with services.embedded(place / "state") as stack:
        out.say(f"They serve at {stack.address}; their state is in {place}.")
        session = Session(address=stack.address, out=out)
        again = f"Stopped; `omnialign up --root {place / 'state'}` goes on with the job."
        return await _align(session, plan, source=place / "dataset", folder=folder, farewell=again)


async def _run_there(session: Session, plan: Plan, folder: Path) -> dict[str, Any]:
    """Runs on the server of the session, which gets the dataset and the model from here."""
    with tempfile.TemporaryDirectory(prefix="omnialign-demo-") as source:
        return await _align(session, plan, source=Path(source) / "dataset", folder=folder)


async def _align(session: Session, plan: Plan, *, source: Path, folder: Path, farewell: str = "") -> dict[str, Any]:
    """Submits the job, follows it to its end, and returns the report's numbers."""
    from omnialign.cli import jobs, summary

    async with session.client() as client:
        name = await _submit(session, client, plan, source=source)
        await jobs.watch_to_end(session, client, name, farewell=farewell)
        return await summary.fetch(client, name, folder)


async def _submit(session: Session, client: AsyncClient, plan: Plan, *, source: Path) -> str:
    """Writes and imports the dataset, registers the base model, submits the job, and returns the job's name."""
    import asyncio

    from examples.tinyworld import dataset, recipe
    from omnialign.cli import data, preflight, spec, uploading

    await asyncio.to_thread(dataset.write, source, seed=plan.seed, sizes=recipe.SMALL if plan.small else None)
    rows = await uploading.reachable(client, source, session=session)
    weights = await uploading.reachable(client, Path(recipe.__file__).parent / "model", session=session)
    imported = client.import_dataset(plan.named(recipe.DATASET_ID), rows)
    version = await data.show_import(imported, out=session.out)
    model = await client.register_model(
        plan.named(recipe.MODEL_ID), weights, display_name="tiny world, before alignment"
    )
    wanted = spec.build(recipe.spec(plan.seed, dataset=version.name, base_model=model.name, small=plan.small))
    job_id = plan.named(recipe.JOB_ID)
    preflight.show(await client.create_alignment_job(job_id, wanted, validate_only=True), out=session.out)
    return (await client.create_alignment_job(job_id, wanted)).name


async def _show(numbers: dict[str, Any], *, folder: Path, out: Output) -> None:
    from omnialign.cli import summary

    out.record(numbers)
    summary.show(numbers, folder=folder, out=out)
