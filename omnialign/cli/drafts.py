"""`omnialign annotate draft` and `omnialign annotate drafts`: models that annotate the pairs of a campaign."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Annotated

import typer

from omnialign.cli.session import Session, command
from omnialign.wording import counted

if TYPE_CHECKING:
    from omnialign.client import AsyncClient
    from omnialign.v1.annotation_service_pb2 import (
        AgreementWithPeople,
        DraftJob,
        PartAgreement,
        WatchDraftJobResponse,
    )

app = typer.Typer(help="List, watch, pause, resume, cancel and delete draft jobs.", no_args_is_help=True)

COLLECTION = "draftJobs"
AGREEMENT = ("PART", "AGREE", "ALPHA", "N", "ABSTAINED")
Job = Annotated[str, typer.Argument(help="Id or full name of the draft job.")]
Tokens = Annotated[int, typer.Option(min=0, help="Tokens that it may use, read and written. 0: as it is.")]


@command
async def draft(
    session: Session,
    campaign: Annotated[str, typer.Argument(help="Id or full name of the campaign.")],
    model: Annotated[str, typer.Option(help="Model that drafts, such as `base`, `base/2` or `base@2`.")] = "",
    endpoint: Annotated[
        str, typer.Option(help="Or a model behind an OpenAI-compatible endpoint: `https://host/v1#NAME`.")
    ] = "",
    id: Annotated[str, typer.Option("--id", help="Id of the job. Default: the server chooses one.")] = "",  # noqa: A002
    tokens: Annotated[
        int, typer.Option(min=0, help="Tokens that it may use, read and written. Default: the server's.")
    ] = 0,
    max_new_tokens: Annotated[int, typer.Option(min=0, max=65536, help="Of an answer. Default: 2048.")] = 0,
    temperature: Annotated[float, typer.Option(min=0, max=10, help="Of sampling; 0 is greedy.")] = 0.0,
    seed: Annotated[int, typer.Option(min=0, help="Seed of all sampling.")] = 0,
    start: Annotated[
        bool, typer.Option("--start", help="Annotators who take a pair from now on start from these drafts.")
    ] = False,
    watch: Annotated[bool, typer.Option("--watch", help="Follow the job until it ends.")] = False,
) -> None:
    """Have a model fill in the form for each pair of a campaign, asked in both orders of the responses."""
    from omnialign.v1.annotation_service_pb2 import DraftSpec

    if bool(model) == bool(endpoint):
        raise typer.BadParameter("give one of --model and --endpoint")
    wanted = DraftSpec(campaign=session.name("campaigns", campaign), seed=seed, token_budget=tokens, start_from=start)
    wanted.sampling.max_new_tokens, wanted.sampling.temperature = max_new_tokens, temperature
    async with session.client() as client:
        if endpoint:
            wanted.model = endpoint if endpoint.startswith("openai+") else f"openai+{endpoint}"
        else:
            wanted.model = await model_named(model, client=client, session=session)
        made = await client.create_draft_job(id, wanted)
        if not watch:
            session.out.record(made)
        session.out.say(f"Submitted {made.name}: {made.spec.model} drafts, with {made.token_budget:,} tokens")
        if watch:
            await _watch_to_end(session, client, made.name)


@app.command("list")
@command
async def list_(session: Session) -> None:
    """List draft jobs, newest first."""
    from omnialign import names
    from omnialign.cli import job_view

    rows = []
    async with session.client() as client:
        async for found in client.list_draft_jobs():
            session.out.record(found)
            created = found.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M")
            about = (names.id_of(found.spec.campaign), names.short_name(found.spec.model))
            rows.append((names.id_of(found.name), job_view.state(found), *about, _pairs(found), created))
    headings = ("DRAFT JOB", "STATE", "CAMPAIGN", "MODEL", "PAIRS", "CREATED (UTC)")
    session.out.table(headings, rows, empty="No draft jobs yet.")


@app.command()
@command
async def show(session: Session, job: Job) -> None:
    """Show a draft job: its progress, its budget and, if it failed, why."""
    from omnialign.cli import job_view

    async with session.client() as client:
        found = await client.get_draft_job(session.name(COLLECTION, job))
    session.out.record(found)
    if session.out.as_json:
        return
    session.out.console.print(job_view.stage_table(found, notes=(_budget(found),)))
    if found.error.message:
        session.out.say(f"failed: {found.error.message}")


@app.command()
@command
async def watch(session: Session, job: Job) -> None:
    """Follow a draft job until it ends. Ctrl-C stops watching; the job continues."""
    async with session.client() as client:
        await _watch_to_end(session, client, session.name(COLLECTION, job))


@app.command()
@command
async def pause(session: Session, job: Job) -> None:
    """Pause a draft job: it starts no new work; work in progress is finished."""
    async with session.client() as client:
        _show_state(session, await client.pause_draft_job(session.name(COLLECTION, job)))


@app.command()
@command
async def resume(session: Session, job: Job, tokens: Tokens = 0) -> None:
    """Resume a paused draft job; one that has used its budget needs a larger one with --tokens."""
    async with session.client() as client:
        changed = await client.resume_draft_job(session.name(COLLECTION, job), token_budget=tokens)
    _show_state(session, changed)


@app.command()
@command
async def cancel(session: Session, job: Job) -> None:
    """Cancel a draft job; the drafts that it made stay."""
    async with session.client() as client:
        _show_state(session, await client.cancel_draft_job(session.name(COLLECTION, job)))


@app.command()
@command
async def delete(session: Session, job: Job) -> None:
    """Delete a draft job that has ended; the drafts that it made stay."""
    name = session.name(COLLECTION, job)
    async with session.client() as client:
        await client.delete_draft_job(name)
    session.out.record({"name": name})
    session.out.say(f"Deleted {name}")


@app.command()
@command
async def agreement(
    session: Session, campaign: Annotated[str, typer.Argument(help="Id or full name of the campaign.")]
) -> None:
    """Tell how far models agree with the people who annotated the same pairs."""
    async with session.client() as client:
        found = await client.get_model_agreement(session.name("campaigns", campaign))
    session.out.record(found)
    if not found.models:
        session.out.say("No model has drafted pairs of this campaign.")
    for model in found.models:
        abstains = f"it abstains on the better response of {model.undecided_count}"
        session.out.say(f"{model.model}: {counted(model.draft_count, 'pair')}, and {abstains}")
        groups = (("had not seen its drafts", model.independent), ("started from its drafts", model.from_draft))
        for words, people in groups:
            if people.annotation_count:
                session.out.say(f"With people who {words}, {counted(people.annotation_count, 'annotation')}:")
                session.out.table(AGREEMENT, list(_agreement_rows(people)), empty="")


def _agreement_rows(people: AgreementWithPeople) -> Iterator[tuple[str, ...]]:
    for one in people.dimensions:
        for words, part in (("winner", one.winner), ("scores", one.scores)):
            yield f"{one.dimension}, {words}", *_agreed(part)
    yield "(preferred)", *_agreed(people.preferred)


def _agreed(part: PartAgreement) -> tuple[str, ...]:
    rate = f"{part.rate:.0%}" if part.HasField("rate") else "–"
    alpha = f"{part.alpha:.2f}" if part.HasField("alpha") else "–"
    return rate, alpha, str(part.count), str(part.abstained_count)


async def model_named(text: str, *, client: AsyncClient, session: Session) -> str:
    """The version that `base`, `base/2` or `base@2` means now; an address, or nothing, as it is."""
    from omnialign.cli import spec

    name = text if "/" in text else text.replace("@", "/")
    return await spec.pinned_model(name, client=client, session=session)


async def _watch_to_end(session: Session, client: AsyncClient, name: str) -> None:
    """Follows a draft job until it ends; exit status 1 if it did not succeed. Ctrl-C stops watching."""
    import asyncio

    from omnialign import names
    from omnialign.cli import job_view
    from omnialign.cli.follow import follow
    from omnialign.v1.annotation_service_pb2 import WatchDraftJobResponse

    def sentence(event: WatchDraftJobResponse) -> str:
        return event.message or job_view.state(event.draft_job)

    try:
        last = await follow(
            client.watch_draft_job(name),
            out=session.out,
            sentence=sentence,
            picture=lambda event: job_view.stage_table(
                event.draft_job, notes=(_budget(event.draft_job), event.message)
            ),
        )
    except asyncio.CancelledError:
        again = f"omnialign annotate drafts watch {names.id_of(name)}"
        session.out.complain(f"\nThe draft job continues; follow it with `{again}`.")
        raise
    found = (last or WatchDraftJobResponse()).draft_job
    if job_view.state(found) != "succeeded":
        why = f": {found.error.message}" if found.error.message else ""
        session.out.complain(f"error: The draft job {job_view.state(found)}{why}")
        raise typer.Exit(1)
    session.out.say(f"pairs: {_pairs(found)}; {_budget(found)}")


def _show_state(session: Session, job: DraftJob) -> None:
    from omnialign.cli import job_view

    session.out.record(job)
    session.out.say(f"{job.name} is {job_view.state(job)}")


def _pairs(job: DraftJob) -> str:
    stage = job.stages[0]
    return f"{stage.completed + stage.abstained + stage.quarantined} of {stage.total}"


def _budget(job: DraftJob) -> str:
    abstained = f"; {counted(job.abstained_part_count, 'part')} abstained" if job.abstained_part_count else ""
    return f"{job.tokens_used:,} of {job.token_budget:,} tokens used{abstained}"
