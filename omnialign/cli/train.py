"""`omnialign train`: submit, list, show, watch and cancel training jobs, and read their logs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnialign.cli.session import Session, command

if TYPE_CHECKING:
    from omnialign.client import AsyncClient

app = typer.Typer(help="Train one model with one method: submit, watch and control.", no_args_is_help=True)

Job = Annotated[str, typer.Argument(help="Id or full name of the training job.")]
NO_ESTIMATE = "The specification is valid; the memory cannot be estimated, because the model's shape is not known."
REQUIRED = ("method", "base_model", "dataset", "output_model_id")


@app.command()
@command
async def submit(
    session: Session,
    file: Annotated[Path | None, typer.Argument(help="YAML or JSON file with the fields of TrainingSpec.")] = None,
    id: Annotated[str, typer.Option("--id", help="Id of the new job. Default: the server chooses one.")] = "",  # noqa: A002
    method: Annotated[
        str, typer.Option(help="`sft`, `reward`, `dpo`, `kto`, `simpo`, `orpo`, `sdpo`, `grpo` or `ppo`.")
    ] = "",
    base_model: Annotated[str, typer.Option(help="Model to start from, such as `base` or `base/2`.")] = "",
    dataset: Annotated[str, typer.Option(help="Dataset, such as `pairs` or `pairs/3`.")] = "",
    output_model: Annotated[str, typer.Option(help="Id of the model to register the result under.")] = "",
    set: Annotated[list[str] | None, typer.Option("--set", help="Set a field: hyperparameters.beta=0.3.")] = None,  # noqa: A002
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job until it ends.")] = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Check it and estimate its memory; submit nothing.")
    ] = False,
) -> None:
    """Submit a training job from a file, from options, or from a file with options that override it.

    `--set lora.rank=16` trains a LoRA. What takes less memory: `--set distribution.gradient_checkpointing=true`,
    `--set distribution.offload=optimizer`, `--set hyperparameters.micro_batch_size=1`.
    """
    from omnialign.cli import spec, training_view
    from omnialign.v1 import training_service_pb2

    values: dict[str, Any] = spec.read_file(file) if file else {}
    given = {"method": method, "base_model": base_model, "dataset": dataset, "output_model_id": output_model}
    values |= {key: value for key, value in given.items() if value}
    merged = spec.with_settings(values, set or [])
    wanted = spec.build_spec(merged, training_service_pb2.TrainingSpec, required=REQUIRED)
    async with session.client() as client:
        await spec.pin_versions(wanted, client=client, session=session)
        job = await client.create_training_job(id, wanted, validate_only=dry_run)
        if dry_run:
            session.out.record(job)
            session.out.table(("MEMORY OF EACH DEVICE", ""), training_view.memory_rows(job.memory), empty=NO_ESTIMATE)
            return
        if not watch:
            session.out.record(job)
        session.out.say(f"Submitted {job.name}")
        if watch:
            await watch_to_end(session, client, job.name)


async def watch_to_end(session: Session, client: AsyncClient, name: str) -> None:
    """Follows a job until it ends; exit status 1 if it did not succeed. Ctrl-C stops watching, not the job."""
    import asyncio

    from omnialign import names
    from omnialign.cli import training_view

    try:
        job = await training_view.show_events(client.watch_training_job(name), out=session.out)
    except asyncio.CancelledError:
        session.out.complain(f"\nThe job continues; follow it with `omnialign train watch {names.id_of(name)}`.")
        raise
    if training_view.state(job) != "succeeded":
        why = f": {job.error.message}" if job.error.message else ""
        session.out.complain(f"error: The training job {training_view.state(job)}{why}")
        raise typer.Exit(1)
    session.out.say(f"Trained {job.model}")


@app.command("list")
@command
async def list_(session: Session) -> None:
    """List training jobs, newest first."""
    from omnialign import names
    from omnialign.cli import training_view

    rows = []
    async with session.client() as client:
        async for job in client.list_training_jobs():
            session.out.record(job)
            progress = job.progress
            steps = f"{progress.completed_steps:,}/{progress.total_steps:,}" if progress.total_steps else ""
            created = job.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M")
            rows.append((names.id_of(job.name), training_view.state(job), job.spec.method, steps, created))
    session.out.table(("JOB", "STATE", "METHOD", "STEPS", "CREATED (UTC)"), rows, empty="No training jobs yet.")


@app.command()
@command
async def show(session: Session, job: Job) -> None:
    """Show a training job: what it does, what it measured and, if it failed, the last lines of its log."""
    from omnialign.cli import training_view

    async with session.client() as client:
        found = await client.get_training_job(session.name("trainingJobs", job))
    session.out.record(found)
    session.out.table(("FIELD", "VALUE"), training_view.rows(found), empty="")
    for line in found.log_tail if found.error.message else ():
        session.out.say(f"| {line}")


@app.command()
@command
async def watch(session: Session, job: Job) -> None:
    """Follow a training job until it ends. Ctrl-C stops watching; the job continues."""
    async with session.client() as client:
        await watch_to_end(session, client, session.name("trainingJobs", job))


@app.command()
@command
async def logs(
    session: Session,
    job: Job,
    tail: Annotated[int, typer.Option(min=0, help="Begin with the last lines only; 0 means all that is kept.")] = 0,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more until the job ends.")] = False,
) -> None:
    """Show what a training job printed."""
    async with session.client() as client:
        async for line in client.training_log(session.name("trainingJobs", job), tail_lines=tail, follow=follow):
            session.out.record({"line": line})
            session.out.say(line)


@app.command()
@command
async def cancel(session: Session, job: Job) -> None:
    """Cancel a training job. One that has ended stays as it is."""
    from omnialign.cli import training_view

    async with session.client() as client:
        changed = await client.cancel_training_job(session.name("trainingJobs", job))
    session.out.record(changed)
    session.out.say(f"{changed.name} is {training_view.state(changed)}")
