"""`omnialign jobs`: submit, list, show, watch, pause, resume, cancel and report alignment jobs."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnialign.cli.session import Session, command

if TYPE_CHECKING:
    from omnialign.client import AsyncClient
    from omnialign.v1 import alignment_service_pb2

app = typer.Typer(help="Alignment jobs.", no_args_is_help=True)

Job = Annotated[str, typer.Argument(help="Id or full name of the job.")]


@app.command()
@command
async def submit(
    session: Session,
    file: Annotated[Path | None, typer.Argument(help="YAML or JSON file with the fields of AlignmentSpec.")] = None,
    id: Annotated[str, typer.Option("--id", help="Id of the new job; default: the server chooses.")] = "",  # noqa: A002
    base_model: Annotated[str, typer.Option(help="Model to align, such as base or base/2.")] = "",
    dataset: Annotated[str, typer.Option(help="Dataset, such as prompts or prompts/3.")] = "",
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of everything that is drawn.")] = None,
    set: Annotated[list[str] | None, typer.Option("--set", help="A field, such as optimization.beta=0.3.")] = None,  # noqa: A002
    validate_only: Annotated[bool, typer.Option("--validate-only", help="Run the pre-flight and stop.")] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job to its end.")] = False,
) -> None:
    """Submits a job from a file, from options, or from a file with options laid over it."""
    from omnialign.cli import job_view, spec

    values: dict[str, Any] = spec.read_file(file) if file else {}
    given = {"base_model": base_model, "dataset": dataset, "seed": seed}
    values |= {key: value for key, value in given.items() if value not in ("", None)}
    wanted = spec.build(spec.with_settings(values, set or []))
    async with session.client() as client:
        await pin_versions(session, client, wanted)
        job = await client.create_alignment_job(id, wanted, validate_only=validate_only)
        if not watch or validate_only:
            session.out.record(job)
        job_view.show_preflight(job, out=session.out)
        if validate_only:
            session.out.say("The specification is valid; nothing was created.")
            return
        session.out.say(f"Submitted {job.name}")
        if watch:
            await watch_to_end(session, client, job.name)


async def pin_versions(session: Session, client: AsyncClient, wanted: alignment_service_pb2.AlignmentSpec) -> None:
    """Turns short names of models and of the dataset into the exact versions that they mean now."""
    for field in ("base_model", "feedback_model", "judge_model"):
        text = getattr(wanted, field)
        if text and "://" not in text:
            setattr(wanted, field, (await client.get_model_version(session.name("models", text))).name)
    name = session.name("datasets", wanted.dataset)
    name = name if "/versions/" in name else f"{name}/versions/-"
    wanted.dataset = (await client.get_dataset_version(name)).name


async def watch_to_end(
    session: Session, client: AsyncClient, name: str, *, farewell: str = ""
) -> alignment_service_pb2.AlignmentJob:
    """Follows a job. Ctrl-C stops the watching alone, with a farewell; exit status 1 when the job did not succeed."""
    import asyncio

    from omnialign.cli import job_view

    try:
        job = await job_view.follow(client.watch_alignment_job(name), out=session.out)
    except asyncio.CancelledError:
        again = f"The job goes on; come back with `omnialign jobs watch {name.split('/')[-1]}`."
        typer.echo(f"\n{farewell or again}", err=True)
        raise
    if job_view.state(job) != "succeeded":
        why = f": {job.error.message}" if job.error.message else ""
        typer.echo(f"error: The job {job_view.state(job)}{why}", err=True)
        raise typer.Exit(1)
    if summary := job_view.pairs(job):
        session.out.say(summary)
    return job


@app.command("list")
@command
async def list_(session: Session) -> None:
    """Lists jobs, newest first."""
    from omnialign.cli import job_view

    rows = []
    async with session.client() as client:
        async for job in client.list_alignment_jobs():
            session.out.record(job)
            stage = next((s.stage for s in job.stages if s.state == s.STATE_RUNNING), "")
            created = job.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M")
            rows.append((job.name.split("/")[-1], job_view.state(job), stage, job.pairs.kept, created))
    session.out.table(("JOB", "STATE", "STAGE", "PAIRS KEPT", "CREATED (UTC)"), rows, empty="No jobs yet.")


@app.command()
@command
async def show(session: Session, job: Job) -> None:
    """Shows one job: its stages, its pairs, its models, and why it failed if it did."""
    from omnialign.cli import job_view

    async with session.client() as client:
        found = await client.get_alignment_job(session.name("alignmentJobs", job))
    session.out.record(found)
    if session.out.as_json:
        return
    session.out.console.print(job_view.table(found))
    rows = [(role, getattr(found.models, role)) for role in ("base", "feedback", "judge", "aligned")]
    session.out.table(("ROLE", "MODEL"), [row for row in rows if row[1]], empty="")
    if found.error.message:
        session.out.say(f"failed: {found.error.message}")


@app.command()
@command
async def watch(session: Session, job: Job) -> None:
    """Follows a job to its end; Ctrl-C leaves it running."""
    async with session.client() as client:
        await watch_to_end(session, client, session.name("alignmentJobs", job))


@app.command()
@command
async def pause(session: Session, job: Job) -> None:
    """Stops taking up new work; what is in flight ends."""
    await _act(session, "pause_alignment_job", job)


@app.command()
@command
async def resume(session: Session, job: Job) -> None:
    """Goes on with a paused job."""
    await _act(session, "resume_alignment_job", job)


@app.command()
@command
async def cancel(session: Session, job: Job) -> None:
    """Ends a job in any stage."""
    await _act(session, "cancel_alignment_job", job)


async def _act(session: Session, method: str, job: str) -> None:
    from omnialign.cli import job_view

    async with session.client() as client:
        changed = await getattr(client, method)(session.name("alignmentJobs", job))
    session.out.record(changed)
    session.out.say(f"{changed.name} is {job_view.state(changed)}")


@app.command()
@command
async def report(
    session: Session,
    job: Job,
    out: Annotated[Path | None, typer.Option(help="Folder to write report.html and report.json to.")] = None,
) -> None:
    """Fetches the report of a job that succeeded, and prints its main numbers."""
    from omnialign.cli import job_view

    name = session.name("alignmentJobs", job)
    folder = out or Path(f"{name.split('/')[-1]}-report")
    async with session.client() as client:
        numbers = await job_view.fetch_report(client, name, folder)
    session.out.record(numbers)
    job_view.show_report(numbers, folder=folder, out=session.out)
