"""`omnialign annotate update`, `close` and `reopen`: changing a campaign while people annotate."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from omnialign.cli.annotate import COLLECTION, CampaignName, priority_of, size_of, text_of
from omnialign.cli.drafts import model_named
from omnialign.cli.session import Session, command
from omnialign.wording import counted

app = typer.Typer()


@app.command()
@command
async def update(
    session: Session,
    campaign: CampaignName,
    title: Annotated[str | None, typer.Option(help="What it is, for people.")] = None,
    instructions: Annotated[Path | None, typer.Option(help="File with what annotators must know.")] = None,
    annotator: Annotated[
        list[str] | None, typer.Option(help="Who may annotate, in place of those before; may be repeated.")
    ] = None,
    everyone: Annotated[bool, typer.Option("--everyone", help="Let everyone with the role annotate.")] = False,
    overlap: Annotated[
        int | None, typer.Option(min=1, max=20, help="Annotations of each pair, by different people.")
    ] = None,
    first: Annotated[
        list[str] | None, typer.Option(help="What comes first, in place of what did before; may be repeated.")
    ] = None,
    lease_minutes: Annotated[
        int | None, typer.Option(min=1, max=10080, help="How long a pair is kept for somebody who saves nothing.")
    ] = None,
    start_from: Annotated[
        str | None, typer.Option(help="Model with whose drafts forms begin from now on; empty for none.")
    ] = None,
) -> None:
    """Change a campaign; what was submitted stays as it is."""
    from omnialign.v1.annotation_service_pb2 import Campaign

    if annotator and everyone:
        raise typer.BadParameter("give --annotator or --everyone, and not both")
    given: dict[str, Any] = {
        "display_name": title,
        "instructions": text_of(instructions) if instructions else None,
        "annotators": [] if everyone else annotator or None,
        "overlap": overlap,
        "priorities": [priority_of(text) for text in first] if first else None,
        "lease_seconds": 60 * lease_minutes if lease_minutes else None,
    }
    fields = {name: value for name, value in given.items() if value is not None}
    if not fields and start_from is None:
        raise typer.BadParameter("say what changes: see --help")
    wanted = Campaign(name=session.name(COLLECTION, campaign), **fields)
    async with session.client() as client:
        if start_from is not None:
            fields["start_from"] = wanted.start_from = await model_named(start_from, client=client, session=session)
        found = await client.update_campaign(wanted, list(fields))
    session.out.record(found)
    session.out.say(f"Changed {found.name}: {size_of(found.progress)}.")


@app.command()
@command
async def close(session: Session, campaign: CampaignName) -> None:
    """End the annotation: nothing is given out or submitted, and what is decided can be committed."""
    async with session.client() as client:
        found = await client.close_campaign(session.name(COLLECTION, campaign))
    session.out.record(found)
    counts = found.progress
    seats = counted(counts.seat_count, "annotation")
    session.out.say(f"Closed {found.name} with {counts.submitted_count} of {seats} submitted.")


@app.command()
@command
async def reopen(session: Session, campaign: CampaignName) -> None:
    """Let the annotation of a closed campaign go on."""
    async with session.client() as client:
        found = await client.reopen_campaign(session.name(COLLECTION, campaign))
    session.out.record(found)
    session.out.say(f"Reopened {found.name}.")
