"""`omnialign jobs`: submit, list, show, watch, pause, resume, cancel and delete alignment jobs, and fetch reports."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from omnialign.cli.session import Session, command

if TYPE_CHECKING:
    from omnialign.client import AsyncClient
    from omnialign.v1 import alignment_service_pb2

app = typer.Typer(help="Submit, watch and control alignment jobs.", no_args_is_help=True)

Job = Annotated[str, typer.Argument(help="Id or full name of the job.")]


@app.command()
@command
async def submit(
    session: Session,
    file: Annotated[Path | None, typer.Argument(help="YAML or JSON file with the fields of AlignmentSpec.")] = None,
    id: Annotated[str, typer.Option("--id", help="Id of the new job. Default: the server chooses one.")] = "",  # noqa: A002
    base_model: Annotated[str, typer.Option(help="Model to align, such as `base` or `base/2`.")] = "",
    dataset: Annotated[str, typer.Option(help="Dataset, such as `prompts` or `prompts/3`.")] = "",
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of all sampling.")] = None,
    set: Annotated[list[str] | None, typer.Option("--set", help="Set a field: optimization.method=simpo.")] = None,  # noqa: A002
    validate_only: Annotated[
        bool, typer.Option("--validate-only", help="Run the pre-flight only; create nothing.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job until it ends.")] = False,
) -> None:
    """Submit a job from a file, from options, or from a file with options that override it."""
    from omnialign.cli import job_view, spec

    values: dict[str, Any] = spec.read_file(file) if file else {}
    given = {"base_model": base_model, "dataset": dataset, "seed": seed}
    values |= {key: value for key, value in given.items() if value not in ("", None)}
    wanted = spec.build(spec.with_settings(values, set or []))
    async with session.client() as client:
        await spec.pin_versions(wanted, client=client, session=session)
        job = await client.create_alignment_job(id, wanted, validate_only=validate_only)
        if not watch or validate_only:
            session.out.record(job)
        job_view.show_preflight(job, out=session.out)
        if validate_only:
            session.out.say("The specification is valid. Nothing was created.")
            return
        session.out.say(f"Submitted {job.name}")
        if watch:
            await watch_to_end(session, client, job.name)


async def watch_to_end(
    session: Session, client: AsyncClient, name: str, *, goodbye: str = ""
) -> alignment_service_pb2.AlignmentJob:
    """Follows a job until it ends; exit status 1 if it did not succeed.

    Ctrl-C stops watching, not the job, and prints `goodbye`.
    """
    import asyncio

    from omnialign import names
    from omnialign.cli import job_view

    try:
        job = await job_view.show_events(client.watch_alignment_job(name), out=session.out)
    except asyncio.CancelledError:
        again = f"The job continues; follow it with `omnialign jobs watch {names.id_of(name)}`."
        session.out.complain(f"\n{goodbye or again}")
        raise
    if job_view.state(job) != "succeeded":
        why = f": {job.error.message}" if job.error.message else ""
        session.out.complain(f"error: The job {job_view.state(job)}{why}")
        raise typer.Exit(1)
    if summary := job_view.pairs(job):
        session.out.say(summary)
    return job


@app.command("list")
@command
async def list_(session: Session) -> None:
    """List jobs, newest first."""
    from omnialign import names
    from omnialign.cli import job_view

    rows = []
    async with session.client() as client:
        async for job in client.list_alignment_jobs():
            session.out.record(job)
            stage = next((s.stage for s in job.stages if s.state == s.STATE_RUNNING), "")
            created = job.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M")
            rows.append((names.id_of(job.name), job_view.state(job), stage, job.pairs.kept, created))
    session.out.table(("JOB", "STATE", "STAGE", "PAIRS KEPT", "CREATED (UTC)"), rows, empty="No jobs yet.")


@app.command()
@command
async def show(session: Session, job: Job) -> None:
    """Show a job: its stages, its pairs, its models and, if it failed, why."""
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
    """Follow a job until it ends. Ctrl-C stops watching; the job continues."""
    async with session.client() as client:
        await watch_to_end(session, client, session.name("alignmentJobs", job))


@app.command()
@command
async def pause(session: Session, job: Job) -> None:
    """Pause a job: it starts no new work; work in progress is finished."""
    await _change_state(session, "pause_alignment_job", job)


@app.command()
@command
async def resume(session: Session, job: Job) -> None:
    """Resume a paused job."""
    await _change_state(session, "resume_alignment_job", job)


@app.command()
@command
async def cancel(session: Session, job: Job) -> None:
    """Cancel a job at any stage."""
    await _change_state(session, "cancel_alignment_job", job)


@app.command()
@command
async def delete(
    session: Session,
    job: Job,
    force: Annotated[bool, typer.Option("--force", help="Cancel the job first if it has not ended.")] = False,
) -> None:
    """Delete a job with its events and its report. What it made stays, and is named."""
    from omnialign.cli import dependents

    name = session.name("alignmentJobs", job)
    async with session.client() as client:
        if force:
            await client.cancel_alignment_job(name)
            async for _ in client.watch_alignment_job(name):
                pass  # until the job has ended
        made = await dependents.job_products(client, name)
        await client.delete_alignment_job(name)
    session.out.record({"deleted": name, "kept": made})
    session.out.say(f"Deleted {name}" + (f"; kept: {dependents.named(made, session=session)}" if made else ""))


@app.command()
@command
async def tidy(
    session: Session,
    jobs: Annotated[list[str] | None, typer.Argument(help="Ids or full names of jobs that have ended.")] = None,
    older_than: Annotated[
        float | None, typer.Option(min=0, metavar="DAYS", help="All jobs that ended so many days ago, or longer.")
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Delete nothing; say what would be deleted.")] = False,
) -> None:
    """Delete the tables of ended jobs that nothing needs. Their reports, models and lineage stay.

    A table stays if something beside the tables of its job was made from it, such as a model, or if a campaign or a job
    that has not ended reads it.
    """
    from omnialign.cli import dependents, job_tables

    if bool(jobs) == (older_than is not None):
        raise typer.BadParameter("name jobs, or give --older-than")
    deleted = kept = 0
    async with session.client() as client:
        if older_than is None:
            ended = await job_tables.ended_jobs(client, [session.name("alignmentJobs", job) for job in jobs or ()])
        else:
            ended = await job_tables.jobs_ended_before(client, older_than)
        async for table in job_tables.tables_of(client, ended):
            is_needed = bool(table.needed_by)
            if not is_needed and not dry_run:
                await client.delete_dataset(table.name)
            deleted, kept = deleted + (not is_needed), kept + is_needed
            session.out.record({"table": table.name, "deleted": not is_needed, "needed_by": table.needed_by})
            if is_needed:
                session.out.say(f"{table.name} stays for {dependents.named(table.needed_by, session=session)}")
    would = "would be " if dry_run else ""
    session.out.say(f"{deleted} tables {would}deleted, {kept} kept")


async def _change_state(session: Session, method: str, job: str) -> None:
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
    out: Annotated[
        Path | None, typer.Option(help="Folder for report.html and report.json. Default: <job>-report.")
    ] = None,
) -> None:
    """Fetch the report of a job that succeeded, and print its main numbers."""
    from omnialign import names
    from omnialign.cli import job_view

    name = session.name("alignmentJobs", job)
    folder = out or Path(f"{names.id_of(name)}-report")
    async with session.client() as client:
        numbers = await job_view.fetch_report(client, name, folder)
    session.out.record(numbers)
    job_view.show_report(numbers, folder=folder, out=session.out)
