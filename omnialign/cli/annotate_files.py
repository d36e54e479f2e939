"""`omnialign annotate export` and `import`: campaigns as files, and what other tools made of them."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omnialign.cli.session import Session, command

if TYPE_CHECKING:
    from omnialign.client import AsyncClient

COLLECTION = "campaigns"
ALIGN_ANYTHING = "align-anything"

CampaignName = Annotated[str, typer.Argument(help="Id or full name of the campaign.")]


@command
async def export(
    session: Session,
    campaign: CampaignName,
    folder: Annotated[Path | None, typer.Argument(help="Folder to create.")] = None,
    output: Annotated[Path | None, typer.Option(help="The same, as an option.")] = None,
    format: Annotated[  # noqa: A002 - the option's name
        str, typer.Option(help="align-anything, label-studio or argilla.")
    ] = ALIGN_ANYTHING,
    dataset: Annotated[
        str, typer.Option(help="For align-anything: what was committed, such as `people/2`. Default: the newest.")
    ] = "",
    media_base: Annotated[
        str, typer.Option(help="For other tools: the address under which they find media. Default: files.")
    ] = "",
) -> None:
    """Export what was committed in the columns of align-anything, or all pairs for another annotation tool."""
    from omnialign import exporting, names
    from omnialign.cli import exchange, export_report

    target = folder or output
    if target is None or (folder and output):
        raise typer.BadParameter("name the folder to create once: `export CAMPAIGN FOLDER`, or with --output")
    if format not in (ALIGN_ANYTHING, *exchange.FORMATS):
        raise typer.BadParameter(f"'{format}' is none of {', '.join((ALIGN_ANYTHING, *exchange.FORMATS))}")
    async with session.client() as client:
        if format == ALIGN_ANYTHING:
            version = await _committed(session, client, dataset or names.id_of(campaign))
            stream = client.stream_records(version)
            done = await exporting.export(stream, target, form=ALIGN_ANYTHING, read=client.fetch_media)
            export_report.report(done, target, out=session.out)
        else:
            name = session.name(COLLECTION, campaign)
            made = await exchange.export(client, name, target, tool=format, media_base=media_base)
            exchange.report_export(made, target, out=session.out)


@command
async def import_(
    session: Session,
    campaign: CampaignName,
    file: Annotated[Path, typer.Argument(help="JSON that Label Studio exported, or the folder of an Argilla dataset.")],
    format: Annotated[  # noqa: A002 - the option's name
        str, typer.Option(help="label-studio or argilla. Default: told by the file.")
    ] = "",
    from_campaign: Annotated[
        str, typer.Option("--from", help="Campaign that the tasks were exported from. Default: the same.")
    ] = "",
    annotator: Annotated[
        list[str] | None, typer.Option(help="Who a user of the tool is, `ID=NAME`; may be repeated.")
    ] = None,
) -> None:
    """Submit what was annotated in another tool, by whoever did it there. Repeating it changes nothing."""
    from omnialign.cli import exchange

    if format and format not in exchange.FORMATS:
        raise typer.BadParameter(f"'{format}' is none of {', '.join(exchange.FORMATS)}")
    people = dict[str, str]()
    for text in annotator or ():
        user, equals, name = text.partition("=")
        if not equals or not user or not name:
            raise typer.BadParameter(f"--annotator '{text}' is no ID=NAME")
        people[user] = name
    source = session.name(COLLECTION, from_campaign) if from_campaign else ""
    async with session.client() as client:
        done = await exchange.bring(
            client, session.name(COLLECTION, campaign), file, tool=format, from_campaign=source, people=people
        )
    exchange.report_import(done, out=session.out)
    if done.refusals:
        raise typer.Exit(1)


async def _committed(session: Session, client: AsyncClient, dataset: str) -> str:
    """The version of a committed dataset; without a number, the newest."""
    from omnialign import names

    version = session.name("datasets", dataset)
    if names.matches(version, names.DATASET):
        version = f"{version}/versions/{names.NEWEST}"
    return (await client.get_dataset_version(version)).name
