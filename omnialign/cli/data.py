"""`omnialign data` and `omnialign lineage`: datasets, and what was made from what."""

from __future__ import annotations

import contextlib
import enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from omnialign.cli import uploads
from omnialign.cli.session import Session, command
from omnialign.cli.uploads import Upload

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from omnialign.cli.output import Output
    from omnialign.v1 import data_service_pb2, dataset_pb2


app = typer.Typer(help="Import, list, show and export datasets.", no_args_is_help=True)

Dataset = Annotated[str, typer.Argument(help="Dataset, such as `prompts`, or version, such as `prompts/3`.")]
Subtasks = Annotated[list[str] | None, typer.Option("--subtask", help="Only this subtask; repeatable.")]
Splits = Annotated[list[str] | None, typer.Option("--split", help="Only this split; repeatable.")]


@app.command("import")
@command
async def import_(
    session: Session,
    dataset: Annotated[str, typer.Argument(help="Id of the dataset; created if it does not exist.")],
    source: Annotated[str, typer.Argument(help="Folder or file in the format of align-anything-200k.")],
    subtask: Annotated[str, typer.Option(help="Subtask of all rows, if not clear from the file name.")] = "",
    split: Annotated[str, typer.Option(help="Split of all rows, if not clear from the file name.")] = "",
    upload: Upload = None,
) -> None:
    """Import files as a new version of a dataset; unusable rows are quarantined and counted by reason."""
    async with session.client() as client:
        uri = await uploads.server_uri(client, source, session=session, upload=upload, keep_name=True)
        await show_import(client.import_dataset(dataset, uri, subtask=subtask, split=split), out=session.out)


async def show_import(
    events: AsyncIterator[data_service_pb2.ImportDatasetResponse], *, out: Output
) -> dataset_pb2.DatasetVersion:
    """Shows the progress and the result of an import, and returns the new version."""
    last = None
    with out.console.status("importing") if out.is_live else contextlib.nullcontext() as status:
        async for last in events:
            out.record(last)
            if status is not None:
                status.update(f"{last.records_imported:,} of {last.rows_read:,} rows imported")
    if last is None:
        from omnialign.errors import Internal

        raise Internal("The server ended the import without a result; run it again.", reason="IMPORT_SILENT")
    counts = ", ".join(f"{name} {number}" for name, number in sorted(last.subtask_counts.items()))
    out.say(f"{last.dataset_version.name}: {last.records_imported} records ({counts})")
    out.say(f"media: {last.media_bytes / 2**20:.1f} MiB; quarantined: {last.rows_quarantined} rows")
    for reason, number in sorted(last.quarantine_reasons.items()):
        out.say(f"  {reason}: {number}")
    return last.dataset_version


@app.command("list")
@command
async def list_(session: Session) -> None:
    """List datasets, newest first."""
    from omnialign import names

    rows = []
    async with session.client() as client:
        async for dataset in client.list_datasets():
            session.out.record(dataset)
            created = dataset.create_time.ToDatetime().strftime("%Y-%m-%d %H:%M")
            rows.append((names.id_of(dataset.name), dataset.latest_version, dataset.record_count, created))
    session.out.table(("DATASET", "VERSION", "RECORDS", "CREATED (UTC)"), rows, empty="No datasets yet.")


@app.command()
@command
async def show(
    session: Session,
    dataset: Dataset,
    limit: Annotated[int, typer.Option(min=1, help="Show at most this many records.")] = 5,
    id: Annotated[list[str] | None, typer.Option("--id", help="Only the record with this id; repeatable.")] = None,  # noqa: A002
    subtask: Subtasks = None,
    split: Splits = None,
    quarantine: Annotated[bool, typer.Option("--quarantine", help="Show the quarantined rows instead.")] = False,
) -> None:
    """Print records as text, with references to their media."""
    from omnialign import names
    from omnialign.cli import records

    name = session.name("datasets", dataset)
    async with session.client() as client:
        if quarantine:
            head = names.parent_of(name) if names.matches(name, names.DATASET_VERSION) else name
            stream = client.stream_quarantine(head)
        else:
            stream = client.stream_records(name, subtasks=subtask or (), splits=split or (), ids=id or (), limit=limit)
        shown = 0
        async for record in stream:
            session.out.record(record)
            session.out.say(records.record_text(record))
            shown += 1
            if shown == limit:
                break
    if not shown:
        session.out.say("No records found.")


@app.command()
@command
async def export(
    session: Session,
    dataset: Dataset,
    folder: Annotated[Path, typer.Argument(help="Folder to create; gets records.jsonl and media/.")],
    subtask: Subtasks = None,
    split: Splits = None,
    media: Annotated[bool, typer.Option(help="Export the media too.")] = True,
) -> None:
    """Export records as JSON lines and their media as files. The folder appears once it is complete."""
    from omnialign.cli import records

    async with session.client() as client:
        stream = client.stream_records(session.name("datasets", dataset), subtasks=subtask or (), splits=split or ())
        done = await records.export(stream, folder, client=client, with_media=media)
    session.out.record({"folder": str(folder), "records": done.records, "media": done.media})
    session.out.say(f"{folder}: {done.records} records, {done.media} media files")


class Direction(enum.StrEnum):
    """Which way to follow lineage."""

    BOTH = "both"
    SOURCES = "sources"
    PRODUCTS = "products"


@command
async def lineage(
    session: Session,
    name: Annotated[
        str, typer.Argument(help="Full name, or a short one such as models/base/versions/2 or alignmentJobs/demo.")
    ],
    direction: Annotated[
        Direction, typer.Option(help="Follow lineage to sources, to products, or both.")
    ] = Direction.BOTH,
    depth: Annotated[int, typer.Option(min=0, help="Follow at most this many steps; 0 for all.")] = 0,
) -> None:
    """Show what a model, dataset, job or record was made from, and what was made from it."""
    full = name if name.startswith("projects/") else f"projects/{session.project}/{name}"
    number = list(Direction).index(direction)  # same order as in GetLineageRequest.Direction
    async with session.client() as client:
        found = await client.get_lineage(full, direction=number, max_depth=depth)
    session.out.record(found)
    project = f"projects/{session.project}/"
    rows = [(e.source.removeprefix(project), e.relation, e.target.removeprefix(project)) for e in found.edges]
    if rows or not found.records:
        session.out.table(("SOURCE", "RELATION", "PRODUCT"), rows, empty=f"No lineage is recorded for {full}.")
    _show_records(session, found)


def _show_records(session: Session, found: data_service_pb2.GetLineageResponse) -> None:
    from omnialign.cli import records

    for appearance in found.records:
        session.out.say(f"in {appearance.dataset}")
        session.out.say(records.record_text(appearance.record))
