"""`omnialign demo`: the whole loop on the tiny world, on a laptop, with nothing to install or configure."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omnialign.cli.output import Output
from omnialign.cli.session import Session, local_uri, run_guarded

if TYPE_CHECKING:
    from omnialign.client import AsyncClient


def demo(
    seed: Annotated[int, typer.Option(min=0, help="Seed of the data and of everything that is drawn.")] = 0,
    out: Annotated[Path, typer.Option(help="Folder for the report and all state of the run.")] = Path("omnialign-demo"),
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object per line.")] = False,
) -> None:
    """Aligns a small all-modality model with language feedback, and shows what it learnt."""
    output = Output(as_json=as_json)
    run_guarded(lambda: run(seed=seed, folder=out, out=output), out=output)


async def run(*, seed: int, folder: Path, out: Output) -> None:
    """Runs the demo in a new folder below `folder`, and leaves the report in `folder`."""
    from omnialign.cli import jobs, summary
    from omnialign.cli.up import load_embedded

    out.say("Starting all services in this process.")
    services = load_embedded()
    services.configure_logging("WARNING")
    started = time.monotonic()
    place = folder / "runs" / time.strftime("%Y%m%d-%H%M%S")
    async with services.embedded(place / "state") as stack:
        session = Session(address=stack.address, out=out)
        out.say(f"They serve at {stack.address}; their state is in {place}.")
        async with session.client() as client:
            name = await _submit(client, seed=seed, source=place / "dataset", out=out)
            return_by = f"`omnialign up --root {place / 'state'}` goes on with the job."
            await jobs.watch_to_end(session, client, name, farewell=f"Stopped; {return_by}")
            numbers = await summary.fetch(client, name, folder)
    out.record(numbers)
    summary.show(numbers, folder=folder, out=out)
    out.say(f"Done in {(time.monotonic() - started) / 60:.1f} minutes.")


async def _submit(client: AsyncClient, *, seed: int, source: Path, out: Output) -> str:
    """Writes and imports the dataset, registers the base model, submits the job, and returns the job's name."""
    import asyncio

    from examples.tinyworld import dataset, recipe
    from omnialign.cli import data, preflight, spec

    await asyncio.to_thread(dataset.write, source, seed=seed, sizes=None)
    version = await data.show_import(client.import_dataset(recipe.DATASET_ID, local_uri(str(source))), out=out)
    folder = local_uri(str(Path(recipe.__file__).parent / "model"))
    model = await client.register_model(recipe.MODEL_ID, folder, display_name="tiny world, before alignment")
    wanted = spec.build(recipe.spec(seed, dataset=version.name, base_model=model.name))
    preflight.show(await client.create_alignment_job(recipe.JOB_ID, wanted, validate_only=True), out=out)
    return (await client.create_alignment_job(recipe.JOB_ID, wanted)).name
